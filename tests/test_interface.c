/* The binary interface from the caller's side: what the init functions set is what the headers say, callers with older and newer
 * structures get on, constants exist as functions. The comparison with recorded names and offsets is tests/abi/abi.py. */
#include <check.h>

#include "check_alloc.h"

START_TEST(context_defaults)
{
	lora_context_options o;
	memset(&o, 0xAA, sizeof o);
	check_ok(NULL, lora_context_options_init(&o, sizeof o));
	ck_assert_uint_eq(o.struct_size, sizeof o);
	ck_assert_int_eq(o.threads, 1);
	ck_assert_ptr_null(o.allocator);
	ck_assert_uint_eq(o.memory_limit, 0);
	ck_assert(o.log == NULL);
	ck_assert_ptr_null(o.log_user);
	ck_assert_int_eq(o.log_level, LORA_LOG_WARN);
	ck_assert_int_eq(o.reserved0, 0);
	ck_assert_msg(o.backend == NULL || strcmp(o.backend, "auto") == 0, "backend is '%s'", o.backend);
	ck_assert_ptr_null(o.plugin_dir);
	ck_assert_uint_eq(o.max_header_bytes, 100000000);
	ck_assert_uint_eq(o.max_json_bytes, 64 << 20);
	ck_assert_uint_eq(o.max_tensors, 4000000);
	ck_assert_ptr_null(o.error);
	for (int i = 0; i < 4; i++) ck_assert_uint_eq(o.reserved[i], 0);
	check_fails(LORA_E_ARGUMENT, lora_context_options_init(NULL, sizeof o));
	check_fails(LORA_E_ARGUMENT, lora_context_options_init(&o, 3));
}
END_TEST

START_TEST(merge_defaults)
{
	lora_merge_options o;
	memset(&o, 0xAA, sizeof o);
	check_ok(NULL, lora_merge_options_init(&o, sizeof o));
	ck_assert_uint_eq(o.struct_size, sizeof o);
	ck_assert_uint_eq(o.flags, 0);
	ck_assert(o.scale == 1.0);
	for (int i = 0; i < 4; i++) ck_assert_uint_eq(o.reserved[i], 0);
	check_fails(LORA_E_ARGUMENT, lora_merge_options_init(NULL, sizeof o));
}
END_TEST

/* A caller from the future, and one from the past. */
START_TEST(sizes)
{
	struct { lora_context_options now; uint64_t later[4]; } newer;
	lora_context *ctx = NULL;
	memset(&newer, 0, sizeof newer);
	check_ok(NULL, lora_context_options_init(&newer.now, sizeof newer));
	ck_assert_uint_eq(newer.now.struct_size, sizeof newer);
	newer.now.backend = "naive";
	check_ok(NULL, lora_context_create(LORA_ABI, &newer.now, &ctx));
	lora_context_destroy(ctx);
	newer.later[3] = 1; /* something that this library does not know: it must not be ignored */
	check_fails(LORA_E_VERSION, lora_context_create(LORA_ABI, &newer.now, &ctx));
	ck_assert_ptr_null(ctx);

	lora_context_options older;
	memset(&older, 0xAA, sizeof older);
	check_ok(NULL, lora_context_options_init(&older, offsetof(lora_context_options, backend)));
	ck_assert_uint_eq(((unsigned char *)&older)[offsetof(lora_context_options, backend)], 0xAA); /* beyond its size nothing was written */
	check_ok(NULL, lora_context_create(LORA_ABI, &older, &ctx));
	lora_context_destroy(ctx);
}
END_TEST

START_TEST(bad_options)
{
	static const struct { size_t offset; const char *what; } reserved[] = {
		{ offsetof(lora_context_options, reserved0), "reserved0" }, { offsetof(lora_context_options, reserved), "reserved[0]" },
		{ offsetof(lora_context_options, reserved) + 24, "reserved[3]" } };
	for (size_t i = 0; i < sizeof reserved / sizeof *reserved; i++) {
		lora_context_options o;
		lora_error           e = { .struct_size = sizeof e };
		lora_context        *ctx = (lora_context *)&o;
		check_ok(NULL, lora_context_options_init(&o, sizeof o));
		((unsigned char *)&o)[reserved[i].offset] = 1;
		o.error = &e;
		ck_assert_msg(lora_context_create(LORA_ABI, &o, &ctx) == LORA_E_ARGUMENT, "%s was accepted", reserved[i].what);
		ck_assert_ptr_null(ctx);
		ck_assert_int_eq(e.status, LORA_E_ARGUMENT);
		ck_assert(e.message[0]);
	}
	lora_context *ctx = NULL;
	check_fails(LORA_E_VERSION, lora_context_create(LORA_ABI + 1, NULL, &ctx));
	check_fails(LORA_E_ARGUMENT, lora_context_create(LORA_ABI, NULL, NULL));
	lora_context_options o;
	check_ok(NULL, lora_context_options_init(&o, sizeof o));
	o.threads = -1;
	check_fails(LORA_E_ARGUMENT, lora_context_create(LORA_ABI, &o, &ctx));
	check_ok(NULL, lora_context_options_init(&o, sizeof o));
	o.backend = "no-such-backend";
	check_fails(LORA_E_BACKEND, lora_context_create(LORA_ABI, &o, &ctx));
}
END_TEST

/* Constants as functions, for callers without a preprocessor. */
START_TEST(twins)
{
	unsigned major, minor, patch;
	ck_assert_uint_eq(lora_abi(), LORA_ABI);
	ck_assert_int_eq(sscanf(lora_version_string(), "%u.%u.%u", &major, &minor, &patch), 3);
	ck_assert_uint_eq(lora_version(), major * 1000000 + minor * 1000 + patch);
	ck_assert(strstr(lora_build_info(), lora_version_string()) != NULL);
	for (lora_status st = LORA_E_INTERNAL; st <= LORA_OK; st++) {
		const char *name = lora_status_name(st);
		ck_assert_msg(strncmp(name, "LORA_", 5) == 0 && strcmp(name, "LORA_E_?") != 0, "status %d has the name %s", st, name);
		for (lora_status other = LORA_E_INTERNAL; other < st; other++) ck_assert_str_ne(name, lora_status_name(other));
	}
	ck_assert_str_eq(lora_status_name(LORA_E_CALLBACK), "LORA_E_CALLBACK");
	ck_assert_str_eq(lora_status_name(1), "LORA_E_?");
	ck_assert_str_eq(lora_status_name(LORA_E_INTERNAL - 1), "LORA_E_?");
	ck_assert_str_eq(lora_status_name(INT32_MIN), "LORA_E_?");
}
END_TEST

/* NULL where an object belongs: an answer, never a crash. */
START_TEST(null_objects)
{
	lora_context_destroy(NULL), lora_settings_destroy(NULL), lora_model_destroy(NULL), lora_adapter_destroy(NULL), lora_rows_destroy(NULL);
	lora_optimizer_destroy(NULL), lora_trainer_destroy(NULL), lora_tokenizer_destroy(NULL), lora_generator_destroy(NULL);
	ck_assert_str_eq(lora_context_last_error(NULL), "");
	ck_assert_str_eq(lora_context_backend_name(NULL), "");
	ck_assert_int_eq(lora_context_threads(NULL), 0);
	ck_assert_int_eq(lora_model_site_count(NULL), 0);
	ck_assert_int_eq(lora_adapter_tensor_count(NULL), 0);
	ck_assert_int_eq(lora_tokenizer_size(NULL), 0);
	ck_assert_uint_eq(lora_linear_workspace_bytes(NULL, 0, 1), 0);
	void          *out = NULL;
	int32_t        token = 0;
	size_t         size;
	double         loss;
	int64_t        index;
	lora_batch     batch = { .struct_size = sizeof batch };
	lora_site_info site = { .struct_size = sizeof site };
	struct { lora_status got; const char *call; } calls[] = {
#define CALL(c) { c, #c }
		CALL(lora_context_error(NULL, NULL)), CALL(lora_context_memory(NULL, NULL, NULL)), CALL(lora_settings_create(NULL, (lora_settings **)&out)),
		CALL(lora_settings_set_int(NULL, "a", 1)), CALL(lora_settings_from_json(NULL, "{}", 2)), CALL(lora_settings_to_json(NULL, NULL, 0, &size)),
		CALL(lora_model_create(NULL, (lora_model **)&out)), CALL(lora_model_open(NULL, "x", NULL, (lora_model **)&out)),
		CALL(lora_model_build(NULL, "llama", NULL, (lora_model **)&out)), CALL(lora_model_add_site(NULL, &site, &index)),
		CALL(lora_model_site_info(NULL, 0, &site)), CALL(lora_model_find_site(NULL, "x", &index)), CALL(lora_model_loss(NULL, &batch, &loss, NULL)),
		CALL(lora_model_save(NULL, "x", NULL)), CALL(lora_adapter_create(NULL, "lora", NULL, (lora_adapter **)&out)),
		CALL(lora_adapter_open(NULL, "x", NULL, (lora_adapter **)&out)), CALL(lora_adapter_save(NULL, "x", NULL)), CALL(lora_adapter_attach(NULL, 1.0)),
		CALL(lora_adapter_detach(NULL)), CALL(lora_adapter_merge(NULL, NULL)), CALL(lora_adapter_unmerge(NULL)), CALL(lora_adapter_set_scale(NULL, 1.0)),
		CALL(lora_adapter_set_trainable(NULL, 1)), CALL(lora_adapter_zero_grad(NULL)), CALL(lora_linear_forward(NULL, NULL)),
		CALL(lora_linear_backward(NULL, NULL)), CALL(lora_optimizer_create(NULL, "adamw", NULL, (lora_optimizer **)&out)),
		CALL(lora_optimizer_step(NULL, 1.0)), CALL(lora_optimizer_zero_grad(NULL)), CALL(lora_optimizer_save(NULL, "x")),
		CALL(lora_optimizer_load(NULL, "x")), CALL(lora_trainer_create(NULL, NULL, NULL, NULL, (lora_trainer **)&out)),
		CALL(lora_trainer_step(NULL, &batch, NULL)), CALL(lora_trainer_evaluate(NULL, &batch, 1, &loss, NULL)), CALL(lora_trainer_save(NULL, "x", 0)),
		CALL(lora_trainer_resume(NULL, "x", NULL)), CALL(lora_trainer_set_progress(NULL, NULL, NULL)),
		CALL(lora_tokenizer_open(NULL, "x", (lora_tokenizer **)&out)), CALL(lora_tokenizer_encode(NULL, "x", 1, 0, NULL, 0, &size)),
		CALL(lora_tokenizer_decode(NULL, &token, 1, NULL, 0, &size)), CALL(lora_generator_create(NULL, NULL, (lora_generator **)&out)),
		CALL(lora_generator_feed(NULL, 0, NULL, &token, 1)), CALL(lora_generator_next(NULL, &token, NULL)), CALL(lora_generator_reset(NULL, -1)),
#undef CALL
	};
	for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
		ck_assert_msg(calls[i].got == LORA_E_ARGUMENT, "%s gave %s", calls[i].call, lora_status_name(calls[i].got));
	ck_assert_ptr_null(out);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("interface");
	TCase *t = tcase_create("interface");
	tcase_add_test(t, context_defaults);
	tcase_add_test(t, merge_defaults);
	tcase_add_test(t, sizes);
	tcase_add_test(t, bad_options);
	tcase_add_test(t, twins);
	tcase_add_test(t, null_objects);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
