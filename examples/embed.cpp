// liblora from C++: RAII in a few lines, exceptions from status codes, and text generated with and without an adapter.
//
//     embed [MODEL [ADAPTER]]      without ADAPTER a fresh one is made, which changes nothing: the two texts are then equal
#include <lora/lora.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace lora {

// One deleter for every handle: the library's destroy functions take NULL and any order.
template <class T, void (*destroy)(T *)> struct Deleter {
	void operator()(T *p) const { destroy(p); }
};
template <class T, void (*destroy)(T *)> using Handle = std::unique_ptr<T, Deleter<T, destroy>>;

using Context = Handle<lora_context, lora_context_destroy>;
using Settings = Handle<lora_settings, lora_settings_destroy>;
using Model = Handle<lora_model, lora_model_destroy>;
using Adapter = Handle<lora_adapter, lora_adapter_destroy>;
using Tokenizer = Handle<lora_tokenizer, lora_tokenizer_destroy>;
using Generator = Handle<lora_generator, lora_generator_destroy>;

inline void check(const Context &ctx, lora_status status)
{
	if (status != LORA_OK) throw std::runtime_error(std::string(lora_status_name(status)) + ": " + lora_context_last_error(ctx.get()));
}

// Call a function whose last argument is the handle to fill.
template <class H, class F, class... Args> H make(const Context &ctx, F create, Args... args)
{
	typename H::pointer raw = nullptr;
	check(ctx, create(args..., &raw));
	return H(raw);
}

} // namespace lora

static std::string generate(const lora::Context &ctx, lora_model *model, lora_tokenizer *tokenizer, const std::string &prompt, int n)
{
	std::vector<int32_t> ids(prompt.size() + 8);
	size_t count = 0;
	lora::check(ctx, lora_tokenizer_encode(tokenizer, prompt.data(), prompt.size(), LORA_TOKENIZE_SPECIAL, ids.data(), ids.size(), &count));
	ids.resize(count);
	auto generator = lora::make<lora::Generator>(ctx, lora_generator_create, model, static_cast<const lora_settings *>(nullptr));
	lora::check(ctx, lora_generator_feed(generator.get(), 0, nullptr, ids.data(), static_cast<int64_t>(ids.size())));
	for (int i = 0; i < n; i++) {
		int32_t next = -1;
		lora::check(ctx, lora_generator_next(generator.get(), &next, nullptr));
		if (next < 0) break;
		ids.push_back(next);
	}
	size_t needed = 0;
	lora_tokenizer_decode(tokenizer, ids.data(), ids.size(), nullptr, 0, &needed);
	std::string text(needed + 1, '\0');
	lora::check(ctx, lora_tokenizer_decode(tokenizer, ids.data(), ids.size(), &text[0], text.size(), &needed));
	text.resize(needed);
	return text;
}

int main(int argc, char **argv)
try {
	const char *path = argc > 1 ? argv[1] : "examples/demo/model";
	lora_context *raw = nullptr;
	if (lora_status st = lora_context_create(LORA_ABI, nullptr, &raw)) throw std::runtime_error(lora_status_name(st));
	lora::Context ctx(raw);
	const lora_settings *defaults = nullptr;

	auto model = lora::make<lora::Model>(ctx, lora_model_open, ctx.get(), path, defaults);
	auto tokenizer = lora::make<lora::Tokenizer>(ctx, lora_tokenizer_open, ctx.get(), path);
	const std::string prompt = "One morning";
	const std::string plain = generate(ctx, model.get(), tokenizer.get(), prompt, 40);

	lora::Adapter adapter = argc > 2 ? lora::make<lora::Adapter>(ctx, lora_adapter_open, model.get(), static_cast<const char *>(argv[2]), defaults)
									 : lora::make<lora::Adapter>(ctx, lora_adapter_create, model.get(), "lora", defaults);
	lora::check(ctx, lora_adapter_attach(adapter.get(), 1.0));
	const std::string adapted = generate(ctx, model.get(), tokenizer.get(), prompt, 40);

	std::printf("without the adapter: %s\n\nwith the adapter:    %s\n", plain.c_str(), adapted.c_str());
	if (argc <= 2 && plain != adapted) throw std::runtime_error("a fresh adapter changed the text");

	try { // errors arrive as exceptions, with the library's message
		lora::make<lora::Model>(ctx, lora_model_open, ctx.get(), "no/such/model", defaults);
		return EXIT_FAILURE;
	} catch (const std::runtime_error &e) {
		std::printf("\nan error looks like this: %s\n", e.what());
	}
	return EXIT_SUCCESS;
} catch (const std::exception &e) {
	std::fprintf(stderr, "embed: %s\n", e.what());
	return EXIT_FAILURE;
}
