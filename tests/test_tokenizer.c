/* Tokenizers: equal to the reference on golden lines, each row of bad input, each part by itself, merging, the public calls. */
#include "tokenizer/work.h"

int main(void)
{
	Suite *s = suite_create("tokenizer");
	suite_add_tcase(s, tok_golden_case());
	suite_add_tcase(s, tok_rows_case());
	suite_add_tcase(s, tok_parts_case());
	suite_add_tcase(s, tok_merge_case());
	suite_add_tcase(s, tok_api_case());
	suite_add_tcase(s, tok_files_case());
	suite_add_tcase(s, tok_spm_case());
	suite_add_tcase(s, tok_chat_case());
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
