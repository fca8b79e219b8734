// quickstart.c from Rust, with plain extern "C": no crate, no binding generator. Run it from the top of the source tree:
//
//     rustc -O -L lib examples/quickstart.rs -o build/quickstart && LD_LIBRARY_PATH=lib build/quickstart [STEPS [OUT]]
use std::ffi::{CStr, CString};
use std::os::raw::{c_char, c_void};
use std::ptr::{null, null_mut};

type Handle = *mut c_void;

#[repr(C)]
struct Batch {
    struct_size: u32,
    flags: u32,
    n_sequences: i64,
    length: i64,
    input_ids: *const i32,
    attention_mask: *const i32,
    position_ids: *const i32,
    token_type_ids: *const i32,
    labels: *const i32,
    decoder_input_ids: *const i32,
    decoder_length: i64,
    adapter_rows: *const i32,
    adapters: *const Handle,
    n_adapters: i64,
    reserved: [u64; 4],
}

#[repr(C)]
#[derive(Default)]
struct Metrics {
    struct_size: u32,
    updated: i32,
    step: i64,
    micro_step: i64,
    loss: f64,
    lr: f64,
    grad_norm: f64,
    tokens: i64,
    loss_tokens: i64,
    skipped: i64,
    seconds: f64,
}

#[link(name = "lora")]
extern "C" {
    fn lora_status_name(status: i32) -> *const c_char;
    fn lora_context_create(abi: u32, opts: *const c_void, out: *mut Handle) -> i32;
    fn lora_context_last_error(ctx: Handle) -> *const c_char;
    fn lora_settings_create(ctx: Handle, out: *mut Handle) -> i32;
    fn lora_settings_from_json(s: Handle, json: *const c_char, n: usize) -> i32;
    fn lora_model_open(ctx: Handle, path: *const c_char, settings: Handle, out: *mut Handle) -> i32;
    fn lora_tokenizer_open(ctx: Handle, path: *const c_char, out: *mut Handle) -> i32;
    fn lora_tokenizer_encode(t: Handle, text: *const c_char, n: usize, flags: u32, ids: *mut i32, capacity: usize, count: *mut usize) -> i32;
    fn lora_adapter_create(m: Handle, kind: *const c_char, settings: Handle, out: *mut Handle) -> i32;
    fn lora_adapter_attach(a: Handle, scale: f64) -> i32;
    fn lora_adapter_save(a: Handle, path: *const c_char, settings: Handle) -> i32;
    fn lora_optimizer_create(a: Handle, name: *const c_char, settings: Handle, out: *mut Handle) -> i32;
    fn lora_trainer_create(m: Handle, a: Handle, o: Handle, settings: Handle, out: *mut Handle) -> i32;
    fn lora_trainer_step(t: Handle, batch: *const Batch, metrics: *mut Metrics) -> i32;
    fn lora_trainer_destroy(t: Handle);
    fn lora_optimizer_destroy(o: Handle);
    fn lora_adapter_destroy(a: Handle);
    fn lora_settings_destroy(s: Handle);
    fn lora_tokenizer_destroy(t: Handle);
    fn lora_model_destroy(m: Handle);
    fn lora_context_destroy(ctx: Handle);
}

const ABI: u32 = 1;
const SEQUENCES: usize = 8;
const LENGTH: usize = 64;
const WINDOW: usize = SEQUENCES * LENGTH;

struct Session(Handle);

impl Session {
    fn must(&self, status: i32) {
        if status != 0 {
            let (name, why) = unsafe { (CStr::from_ptr(lora_status_name(status)), CStr::from_ptr(lora_context_last_error(self.0))) };
            eprintln!("{}: {}", name.to_string_lossy(), why.to_string_lossy());
            std::process::exit(1);
        }
    }
    fn make(&self, create: impl FnOnce(*mut Handle) -> i32) -> Handle {
        let mut handle = null_mut();
        self.must(create(&mut handle));
        handle
    }
    fn settings(&self, json: &str) -> Handle {
        let s = self.make(|out| unsafe { lora_settings_create(self.0, out) });
        self.must(unsafe { lora_settings_from_json(s, json.as_ptr().cast(), json.len()) });
        s
    }
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let steps: usize = args.get(1).map_or(100, |s| s.parse().expect("STEPS is a number"));
    let out = args.get(2).map_or("pirate-adapter", |s| s.as_str());
    let text = std::fs::read("examples/demo/pirate.txt").expect("examples/demo/pirate.txt");
    let c = |s: &str| CString::new(s).unwrap();
    let (model_path, kind, adamw) = (c("examples/demo/model"), c("lora"), c("adamw"));

    unsafe {
        let mut ctx = null_mut();
        assert_eq!(lora_context_create(ABI, null(), &mut ctx), 0);
        let lora = Session(ctx);
        let model = lora.make(|h| lora_model_open(ctx, model_path.as_ptr(), null_mut(), h));
        let tokenizer = lora.make(|h| lora_tokenizer_open(ctx, model_path.as_ptr(), h));
        let (mut ids, mut count) = (vec![0i32; 1 << 20], 0usize);
        lora.must(lora_tokenizer_encode(tokenizer, text.as_ptr().cast(), text.len(), 0, ids.as_mut_ptr(), ids.len(), &mut count));

        let of_adapter = lora.settings(r#"{"r": 8, "lora_alpha": 16, "target_modules": "all-linear"}"#);
        let of_optimizer = lora.settings(r#"{"learning_rate": 0.005}"#);
        let of_trainer = lora.settings(r#"{"max_grad_norm": 1.0}"#);
        let adapter = lora.make(|h| lora_adapter_create(model, kind.as_ptr(), of_adapter, h));
        lora.must(lora_adapter_attach(adapter, 1.0));
        let optimizer = lora.make(|h| lora_optimizer_create(adapter, adamw.as_ptr(), of_optimizer, h));
        let trainer = lora.make(|h| lora_trainer_create(model, adapter, optimizer, of_trainer, h));

        for i in 0..steps {
            let at = ids[i * WINDOW % (count - WINDOW)..].as_ptr();
            let batch = Batch {
                struct_size: std::mem::size_of::<Batch>() as u32,
                n_sequences: SEQUENCES as i64,
                length: LENGTH as i64,
                input_ids: at,
                labels: at,
                ..std::mem::zeroed()
            };
            let mut now = Metrics { struct_size: std::mem::size_of::<Metrics>() as u32, ..Default::default() };
            lora.must(lora_trainer_step(trainer, &batch, &mut now));
            if i % 10 == 0 || i == steps - 1 {
                println!("step {:3}  loss {:.4}", i + 1, now.loss);
            }
        }
        lora.must(lora_adapter_save(adapter, c(out).as_ptr(), null_mut()));
        println!("saved {out}");

        lora_trainer_destroy(trainer);
        lora_optimizer_destroy(optimizer);
        lora_adapter_destroy(adapter);
        for s in [of_adapter, of_optimizer, of_trainer] {
            lora_settings_destroy(s);
        }
        lora_tokenizer_destroy(tokenizer);
        lora_model_destroy(model);
        lora_context_destroy(ctx);
    }
}
