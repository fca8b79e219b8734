# make experiments: every examples/experiments/NAME.c is run; its table goes to the terminal and to build/experiments/NAME.md, its picture to NAME.svg.
# docs/experiments/NAME.md tells what came out. EXPERIMENTS="laplace copra" takes some of them.
EXPERIMENTS ?= $(filter-out experiment,$(notdir $(basename $(sort $(wildcard examples/experiments/*.c)))))
XP := $(B)/experiments

$(XP)/%.o: examples/experiments/%.c $(B)/flags
	$(call step,CC)
	$(Q)$(cc) -c $< -o $@
$(XP)/%: $(XP)/%.o $(XP)/experiment.o $(L)/liblora.a
	$(call step,LD)
	$(Q)$(ld) -o $@ $(filter %.o,$^) $(L)/liblora.a $(libs)
experiments: all $(EXPERIMENTS:%=$(XP)/%)                ## run the experiments of docs/experiments (EXPERIMENTS="laplace")
	@mkdir -p build/experiments; for x in $(EXPERIMENTS); do LORA_PLUGIN_DIR=$(L)/lora $(XP)/$$x build/experiments/$$x.svg >build/experiments/$$x.out \
	  && mv build/experiments/$$x.out build/experiments/$$x.md && cat build/experiments/$$x.md || exit 1; done
.PHONY: experiments
-include $(EXPERIMENTS:%=$(XP)/%.d) $(XP)/experiment.d
