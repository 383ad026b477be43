//! Compiles `kernels/*.cu` to PTX, which the program embeds. Without nvcc the program is built for the CPU alone.
//!
//! nvcc is found by `NVCC`, `CUDA_HOME`, `CUDA_PATH`, `PATH`, or in `target/cuda-compiler` (filled by
//! `tools/cuda-compiler`), in this order. A kernel is compiled again only if its source, a header, or nvcc changed.

use std::env;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// PTX runs on every GPU from this compute capability on (bf16 matrix instructions and `cp.async` need it).
const ARCH: &str = "compute_80";
/// What is written as PTX's version, so that drivers from CUDA 12.0 (525) on take it: nvcc names its own version, though
/// the kernels use nothing that is newer than this.
const PTX_VERSION: &str = "8.0";

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env::var("OUT_DIR")?);
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=kernels");
    for variable in ["NVCC", "CUDA_HOME", "CUDA_PATH", "PATH"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let nvcc = find_nvcc(&root);
    let sources = match nvcc {
        Some(_) => sources(&root.join("kernels"))?,
        None => Vec::new(),
    };
    let version = match &nvcc {
        Some(nvcc) => {
            println!("cargo::rerun-if-changed={}", nvcc.display());
            compile_all(nvcc, &sources, &out)?
        }
        None => String::new(),
    };
    let mut table = format!("pub const NVCC: &str = {version:?};\npub const KERNELS: &[(&str, &str)] = &[\n");
    for source in &sources {
        let name = stem(source);
        writeln!(table, "    ({name:?}, include_str!(concat!(env!(\"OUT_DIR\"), \"/{name}.ptx\"))),")?;
    }
    table += "];\n";
    fs::write(out.join("kernels.rs"), table)?;
    Ok(())
}

fn find_nvcc(root: &Path) -> Option<PathBuf> {
    let variable = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let toolkits = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(variable).map(|home| home.join("bin/nvcc"));
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path: Vec<PathBuf> = env::split_paths(&path).map(|folder| folder.join("nvcc")).collect();
    let ours = root.join("target/cuda-compiler/cu13/bin/nvcc");
    variable("NVCC").into_iter().chain(toolkits).chain(on_path).chain([ours]).find(|nvcc| nvcc.is_file())
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// The kernels' files, sorted.
fn sources(folder: &Path) -> Result<Vec<PathBuf>> {
    let paths = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let mut sources: Vec<PathBuf> =
        paths.into_iter().filter(|path| path.extension().is_some_and(|e| e == "cu")).collect();
    sources.sort();
    Ok(sources)
}

/// Compiles on all cores what is not up to date, and returns nvcc's version.
fn compile_all(nvcc: &Path, sources: &[PathBuf], out: &Path) -> Result<String> {
    let about = Command::new(nvcc).arg("--version").output().map_err(|error| format!("{}: {error}", nvcc.display()))?;
    let about = String::from_utf8_lossy(&about.stdout).into_owned();
    let version = about.rsplit_once(", V").map_or(about.trim(), |(_, rest)| rest.lines().next().unwrap_or_default());
    let mut common = DefaultHasher::new();
    (nvcc, &about, ARCH, PTX_VERSION, fs::read("build.rs")?).hash(&mut common);
    let headers = sources.first().and_then(|source| source.parent()).map(fs::read_dir).transpose()?;
    let mut headers = headers.into_iter().flatten().map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    headers.retain(|path| path.extension().is_some_and(|extension| extension == "cuh"));
    headers.sort();
    for header in headers {
        fs::read(header)?.hash(&mut common);
    }
    let queue = Mutex::new(sources.iter());
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(source) = queue.lock().ok().and_then(|mut queue| queue.next()) {
                    if let (Err(error), Ok(mut failures)) =
                        (compile(nvcc, source, out, common.clone()), failures.lock())
                    {
                        failures.push(error.to_string());
                    }
                }
            });
        }
    });
    match failures.into_inner()?.as_slice() {
        [] => Ok(version.to_owned()),
        failures => Err(failures.join("\n").into()),
    }
}

fn compile(nvcc: &Path, source: &Path, out: &Path, mut hasher: DefaultHasher) -> Result<()> {
    fs::read(source)?.hash(&mut hasher);
    let (ptx, stamp) = (out.join(stem(source)).with_extension("ptx"), out.join(stem(source)).with_extension("hash"));
    let hash = hasher.finish().to_string();
    if ptx.is_file() && fs::read_to_string(&stamp).is_ok_and(|old| old == hash) {
        return Ok(());
    }
    // Line information costs nothing at run time and lets every report name the source line.
    let options = ["-ptx", "-std=c++17", "-lineinfo", "-Werror=all-warnings", "-arch"];
    let run = Command::new(nvcc).args(options).arg(ARCH).arg("-o").arg(&ptx).arg(source).output()?;
    if !run.status.success() {
        let said = [run.stdout, run.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        return Err(format!("nvcc cannot compile {}:\n{said}", source.display()).into());
    }
    let text = fs::read_to_string(&ptx)?;
    let (before, rest) = text.split_once(".version ").ok_or("nvcc's output has no .version")?;
    let (_, after) = rest.split_once('\n').ok_or("nvcc's output ends after .version")?;
    fs::write(&ptx, format!("{before}.version {PTX_VERSION}\n{after}"))?;
    fs::write(stamp, hash)?;
    Ok(())
}
