/* The lora program, driven as a user does; in a scratch folder of its own. The parts are in tests/cli/. */
#include "cli/run.h"

#include <stdlib.h>

int main(void)
{
	scratch_make();
	SRunner *r = srunner_create(suite_words());
	srunner_add_suite(r, suite_score());
	srunner_add_suite(r, suite_train());
	srunner_add_suite(r, suite_data());
	srunner_add_suite(r, suite_plot());
	srunner_add_suite(r, suite_gguf());
	srunner_add_suite(r, suite_fourbits());
	srunner_add_suite(r, suite_models());
	srunner_add_suite(r, suite_combine());
	srunner_add_suite(r, suite_virtual());
	srunner_add_suite(r, suite_prune());
	srunner_add_suite(r, suite_uncertainty());
	srunner_add_suite(r, suite_careless());
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	scratch_remove();
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
