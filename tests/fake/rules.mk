# Fake plug-ins for tests/test_plugin.c, beside the test program.
$(B)/tests/test_plugin: | $(B)/tests/fake/plugin.so $(B)/tests/fake/empty.so
$(B)/tests/fake/plugin.so: tests/fake/fake_plugin.c $(B)/flags
	@mkdir -p $(@D)
	$(Q)$(CC) -Iinclude -std=c11 -D_GNU_SOURCE $(warn) -fPIC -fvisibility=hidden -shared -o $@ $<
$(B)/tests/fake/empty.so: tests/fake/fake_plugin.c $(B)/flags
	@mkdir -p $(@D)
	$(Q)$(CC) -Iinclude -std=c11 -D_GNU_SOURCE -w -fPIC -fvisibility=hidden -DFAKE_EMPTY -shared -o $@ $<
