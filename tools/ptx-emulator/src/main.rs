//! `ptx-emulate`: runs one kernel of a PTX file and prints buffers, counts and faults.

use clap::Parser;
use ptx_emulator::{LaunchConfig, Memory, Module, Options, launch};
use std::path::PathBuf;
use std::process::ExitCode;

/// Run one kernel of a PTX file on the CPU and check every memory access
///
/// Exit code 0 if the kernel ran without a fault.
#[derive(Parser)]
#[command(
    name = "ptx-emulate",
    version,
    after_help = "Arguments, one per parameter of the kernel:
  f32:1.5  i32:-3  u32:7  i64:9  u64:9  u16:5      a number
  buf:random:1024  buf:iota:1024  buf:zeros:1024   a buffer of that many f32
  buf:empty:4096                                   a buffer of that many uninitialised bytes
  buf:file:x.bin                                   a buffer with the contents of a file
Append  ,print  or  ,save=FILE  to a buffer to get its contents after the run.

Example:
  ptx-emulate layernorm.ptx layernorm --blocks 4 --threads 128 \\
      buf:random:8192 buf:empty:32768,print i32:32 i32:256"
)]
struct Cli {
    /// PTX file
    ptx: PathBuf,
    /// Kernel; if omitted, list the kernels of the file
    kernel: Option<String>,
    /// One for each parameter of the kernel; see below
    arguments: Vec<String>,
    /// Blocks of the grid: x or x,y,z
    #[arg(long, default_value = "1", value_parser = dimensions)]
    blocks: Dimensions,
    /// Threads of a block: x or x,y,z
    #[arg(long, default_value = "32", value_parser = dimensions)]
    threads: Dimensions,
    /// Dynamic shared memory per block in bytes
    #[arg(long, default_value_t = 0)]
    shared: usize,
    /// Run blocks and warps in a random order with this seed
    #[arg(long)]
    order: Option<u64>,
    /// Do not report uninitialised reads of memory
    #[arg(long)]
    allow_unwritten: bool,
    /// Do not report data races on shared memory
    #[arg(long)]
    allow_races: bool,
}

#[derive(Clone, Copy)]
struct Dimensions([u32; 3]);

fn dimensions(text: &str) -> Result<Dimensions, String> {
    let numbers: Result<Vec<u32>, _> = text.split(',').map(str::parse).collect();
    match numbers.map_err(|why| why.to_string())?[..] {
        [x] => Ok(Dimensions([x, 1, 1])),
        [x, y] => Ok(Dimensions([x, y, 1])),
        [x, y, z] => Ok(Dimensions([x, y, z])),
        _ => Err("one to three numbers".to_owned()),
    }
}

/// A buffer, and what to do with it after the run.
struct Buffer {
    name: String,
    address: u64,
    bytes: usize,
    print: bool,
    save: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn run(cli: &Cli) -> Outcome<()> {
    let text = std::fs::read_to_string(&cli.ptx).map_err(|why| format!("{}: {why}", cli.ptx.display()))?;
    let module = Module::parse(&text).map_err(|why| format!("{}: {why}", cli.ptx.display()))?;
    let Some(name) = &cli.kernel else {
        for kernel in module.kernels() {
            let params = kernel.params().iter().map(|param| format!("{} bytes", param.bytes));
            println!("{} ({})", kernel.name(), params.collect::<Vec<_>>().join(", "));
        }
        return Ok(());
    };
    let kernel = module.kernel(name).ok_or_else(|| {
        let known: Vec<_> = module.kernels().map(|kernel| kernel.name()).collect();
        format!("no kernel `{name}`; the file has {}", known.join(", "))
    })?;
    let memory = Memory::new();
    let mut buffers = Vec::new();
    let mut values = Vec::new();
    for argument in &cli.arguments {
        values.push(parse(argument, &memory, &mut buffers).map_err(|why| format!("`{argument}`: {why}"))?);
    }
    let params = kernel.pack(&values.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
    let grid = LaunchConfig { blocks: cli.blocks.0, threads: cli.threads.0, dynamic_shared: cli.shared };
    let (uninit, races) = (!cli.allow_unwritten, !cli.allow_races);
    let options = Options { uninit, races, order: cli.order, ..Options::default() };
    let counts = launch(&memory, &module, kernel, grid, &params, &options)?;
    for buffer in &buffers {
        let mut bytes = vec![0; buffer.bytes];
        memory.read(buffer.address, &mut bytes)?;
        if buffer.print {
            let numbers = bytes.chunks_exact(4).map(|word| f32::from_le_bytes([word[0], word[1], word[2], word[3]]));
            println!("{}: {:?}", buffer.name, numbers.collect::<Vec<_>>());
        }
        if let Some(path) = &buffer.save {
            std::fs::write(path, &bytes).map_err(|why| format!("{}: {why}", path.display()))?;
        }
    }
    print!("{counts}");
    Ok(())
}

/// The bytes of an argument; buffers are allocated and added to `buffers`.
fn parse(argument: &str, memory: &Memory, buffers: &mut Vec<Buffer>) -> Outcome<Vec<u8>> {
    let (kind, rest) = argument.split_once(':').ok_or("an argument is KIND:VALUE")?;
    Ok(match kind {
        "f32" => rest.parse::<f32>()?.to_le_bytes().to_vec(),
        "i32" => rest.parse::<i32>()?.to_le_bytes().to_vec(),
        "u32" => rest.parse::<u32>()?.to_le_bytes().to_vec(),
        "u16" => rest.parse::<u16>()?.to_le_bytes().to_vec(),
        "i64" => rest.parse::<i64>()?.to_le_bytes().to_vec(),
        "u64" => rest.parse::<u64>()?.to_le_bytes().to_vec(),
        "buf" => {
            let mut options = rest.split(',');
            let (fill, size) =
                options.next().and_then(|what| what.split_once(':')).ok_or("a buffer is buf:FILL:SIZE")?;
            let floats = |value: fn(u32) -> f32| {
                let count: u32 = size.parse()?;
                Ok::<_, std::num::ParseIntError>((0..count).flat_map(|i| value(i).to_le_bytes()).collect::<Vec<u8>>())
            };
            let content = match fill {
                "random" => floats(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0)?,
                "iota" => floats(|i| i as f32)?,
                "zeros" => floats(|_| 0.0)?,
                "file" => std::fs::read(size).map_err(|why| format!("{size}: {why}"))?,
                "empty" => Vec::new(),
                _ => return Err("the contents of a buffer are random, iota, zeros, empty or file".into()),
            };
            let bytes = if fill == "empty" { size.parse()? } else { content.len() };
            let address = memory.allocate(bytes);
            memory.write(address, &content)?;
            let mut buffer = Buffer { name: argument.to_owned(), address, bytes, print: false, save: None };
            for option in options {
                match option.split_once('=') {
                    None if option == "print" => buffer.print = true,
                    Some(("save", path)) => buffer.save = Some(path.into()),
                    _ => return Err(format!("unknown option `{option}` of a buffer; print and save=FILE exist").into()),
                }
            }
            buffers.push(buffer);
            address.to_le_bytes().to_vec()
        }
        _ => return Err(format!("unknown kind of argument `{kind}`").into()),
    })
}
