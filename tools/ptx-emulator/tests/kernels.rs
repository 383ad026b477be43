//! Kernels that nvcc made, against the same sums on the host. Fixtures: `cuda/build`.

use half::bf16;
use ptx_emulator::{Class, Counts, LaunchConfig, Memory, Module, Options, launch};

const PTX: &str = include_str!("cuda/kernels.ptx");

/// A device with one module, and buffers made from slices.
struct Gpu {
    memory: Memory,
    module: Module,
}

impl Gpu {
    fn new() -> Gpu {
        Gpu { memory: Memory::new(), module: Module::parse(PTX).unwrap() }
    }

    fn upload<T: bytemuck::Pod>(&self, values: &[T]) -> u64 {
        let address = self.memory.allocate(size_of_val(values));
        self.memory.write(address, bytemuck::cast_slice(values)).unwrap();
        address
    }

    fn download<T: bytemuck::Pod>(&self, address: u64, count: usize) -> Vec<T> {
        let mut values = vec![T::zeroed(); count];
        self.memory.read(address, bytemuck::cast_slice_mut(&mut values)).unwrap();
        values
    }

    fn launch(&self, name: &str, blocks: u32, threads: u32, arguments: &[&[u8]], order: Option<u64>) -> Counts {
        let kernel = self.module.kernel(name).unwrap();
        let params = kernel.pack(arguments).unwrap();
        let grid = LaunchConfig { blocks: [blocks, 1, 1], threads: [threads, 1, 1], dynamic_shared: 0 };
        let options = Options { order, ..Options::default() };
        launch(&self.memory, &self.module, kernel, grid, &params, &options).unwrap_or_else(|fault| panic!("{fault}"))
    }
}

/// Numbers in [-1, 1) that look random.
fn numbers(count: usize) -> Vec<f32> {
    (0..count).map(|i| ((i as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
}

const ORDERS: [Option<u64>; 3] = [None, Some(1), Some(2)];

#[test]
fn layernorm_moves_each_byte_in_full_sectors() {
    let (gpu, rows, width) = (Gpu::new(), 11, 200);
    let x = numbers(rows * width);
    let from = gpu.upload(&x);
    for order in ORDERS {
        let to = gpu.memory.allocate(4 * x.len());
        let (n, w) = ((rows as i32).to_le_bytes(), (width as i32).to_le_bytes());
        let counts = gpu.launch("layernorm", 3, 128, &[&from.to_le_bytes(), &to.to_le_bytes(), &n, &w], order);
        for (x, y) in x.chunks(width).zip(gpu.download::<f32>(to, x.len()).chunks(width)) {
            let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / width as f64;
            let variance = x.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / width as f64;
            for (x, y) in x.iter().zip(y) {
                // f32 sums of 200 numbers of size 1: some 1e-6.
                assert!(((f64::from(*x) - mean) / (variance + 1e-6).sqrt() - f64::from(*y)).abs() < 1e-5);
            }
        }
        assert_eq!(counts.global_stores.bytes, (4 * x.len()) as u64);
        assert_eq!(counts.global_loads.bytes, (8 * x.len()) as u64, "read twice");
        assert_eq!(counts.global_loads.sectors * 32, counts.global_stores.bytes, "moved once: the cache has it then");
        assert_eq!(counts.moved_bytes(), 2 * counts.global_stores.bytes, "each sector once each way");
        assert_eq!(counts.instructions[&Class::Shuffle], 11 * 10);
    }
}

#[test]
fn a_reduction_in_shared_memory_is_free_of_races() {
    let gpu = Gpu::new();
    let x = numbers(1000);
    let from = gpu.upload(&x);
    for order in ORDERS {
        let (sums, done) = (gpu.memory.allocate(16), gpu.upload(&[0u32]));
        let n = 1000i32.to_le_bytes();
        let arguments = [&from.to_le_bytes()[..], &sums.to_le_bytes(), &done.to_le_bytes(), &n];
        let counts = gpu.launch("block_sums", 4, 256, &arguments, order);
        for (sum, x) in gpu.download::<f32>(sums, 4).iter().zip(x.chunks(256)) {
            assert!((sum - x.iter().sum::<f32>()).abs() < 1e-4);
        }
        assert_eq!(gpu.download::<u32>(done, 1), [4]);
        assert_eq!(counts.barriers, 4 * 8 * 9, "8 warps, 9 barriers");
        assert_eq!(counts.shared.passes, counts.shared.least);
    }
}

#[test]
fn tensor_core_products_agree_with_the_host() {
    let (gpu, k) = (Gpu::new(), 80);
    let [a, b] =
        [0, 1].map(|skip| numbers((64 + skip) * k).into_iter().skip(skip * k).map(bf16::from_f32).collect::<Vec<_>>());
    let (at_a, at_b) = (gpu.upload(&a), gpu.upload(&b));
    let c = gpu.memory.allocate(64 * 64 * 4);
    let arguments = [&at_a.to_le_bytes()[..], &at_b.to_le_bytes(), &c.to_le_bytes(), &(k as i32).to_le_bytes()];
    let counts = gpu.launch("matmul", 1, 128, &arguments, Some(3));
    let c = gpu.download::<f32>(c, 64 * 64);
    for row in 0..64 {
        for column in 0..64 {
            let sum: f64 = (0..k).map(|i| a[row * k + i].to_f64() * b[i * 64 + column].to_f64()).sum();
            assert!((sum - f64::from(c[row * 64 + column])).abs() < 1e-5, "({row}, {column})");
        }
    }
    assert_eq!(counts.mma_flops, 2 * 64 * 64 * k as u64);
    let (operands, result) = (2 * 2 * 64 * k as u64, 4 * 64 * 64);
    assert_eq!(counts.moved_bytes(), operands + result, "whatever several warps read counts once");
    assert_eq!(counts.shared.passes, counts.shared.least, "padded rows have no bank conflicts");
}

#[test]
fn diverged_lanes_meet_again() {
    let gpu = Gpu::new();
    let steps: Vec<i32> = (0..64).map(|i| i * 7 % 13).collect();
    let (from, to) = (gpu.upload(&steps), gpu.memory.allocate(256));
    gpu.launch("diverge", 1, 64, &[&from.to_le_bytes(), &to.to_le_bytes()], None);
    let walk = |n: i32| (0..n).fold(1, |v, i| if v % 2 == 0 { v / 2 } else { 3 * v + 1 + i });
    let values: Vec<i32> = steps.iter().map(|n| walk(*n)).collect();
    let expected: Vec<i32> = (0..64).map(|i| values[i] + values[i / 32 * 32 + 31 - i % 32]).collect();
    assert_eq!(gpu.download::<i32>(to, 64), expected);
}

#[test]
fn conversions_and_functions_agree_with_the_host() {
    let gpu = Gpu::new();
    let mut x: Vec<f32> = numbers(500).into_iter().map(|x| x * 300.0).collect();
    x.extend([0.0, -0.0, 0.5, -0.5, 1e-40, 3e9, -3e9, f32::INFINITY, 1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0]);
    let n = x.len();
    let at = gpu.upload(&x);
    let [rounded, back, whole, functions] = [2, 4, 4, 4].map(|bytes| gpu.memory.allocate(n * bytes));
    let addresses = [at, rounded, back, whole, functions].map(u64::to_le_bytes);
    let count = (n as i32).to_le_bytes();
    let arguments: Vec<&[u8]> = addresses.iter().map(|a| &a[..]).chain([&count[..]]).collect();
    gpu.launch("convert", 4, 128, &arguments, None);
    let expected: Vec<bf16> = x.iter().map(|x| bf16::from_f32(*x)).collect();
    assert_eq!(gpu.download::<bf16>(rounded, n), expected);
    assert_eq!(gpu.download::<f32>(back, n), expected.iter().map(|x| x.to_f32()).collect::<Vec<_>>());
    // Out of range saturates, as Rust's casts do.
    assert_eq!(gpu.download::<i32>(whole, n), x.iter().map(|x| *x as i32).collect::<Vec<_>>());
    for (i, (x, y)) in x.iter().zip(gpu.download::<f32>(functions, n)).enumerate() {
        let expected = (x * 0.01).exp() + x.tanh() + x.abs().sqrt() + f32::from(i as u8);
        assert!((y - expected).abs() <= 1e-5 * expected.abs() || y == expected, "{x}: {y}, {expected}");
    }
}

#[test]
fn a_conversion_reads_the_low_part_of_a_wider_register() {
    let ptx = ".version 8.0 .target sm_80 .address_size 64
        .visible .entry widen(.param .u64 to) {
            .reg .b64 %rd<5>;
            ld.param.u64 %rd1, [to]; cvta.to.global.u64 %rd2, %rd1;
            mov.u64 %rd3, 0x1fffffffe; cvt.s64.s32 %rd4, %rd3; st.global.u64 [%rd2], %rd4; ret;
        }";
    let (memory, module) = (Memory::new(), Module::parse(ptx).unwrap());
    let (to, kernel) = (memory.allocate(8), module.kernel("widen").unwrap());
    let params = kernel.pack(&[&to.to_le_bytes()]).unwrap();
    let grid = LaunchConfig { blocks: [1; 3], threads: [1; 3], dynamic_shared: 0 };
    launch(&memory, &module, kernel, grid, &params, &Options::default()).unwrap();
    let mut back = [0; 8];
    memory.read(to, &mut back).unwrap();
    assert_eq!(i64::from_le_bytes(back), -2);
}
