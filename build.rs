//! Compiles `kernels/*.cu` to PTX, which the program embeds. Without nvcc the program is built for the CPU alone.
//!
//! nvcc is found by `NVCC`, `CUDA_HOME`, `CUDA_PATH`, `PATH`, or in `target/cuda-compiler` (filled by
//! `tools/cuda-compiler`), in this order. A kernel is compiled again only if its source, a header, or nvcc changed.
//!
//! Numbers that a kernel and its launcher share are written once, in `kernels/`, on lines that end in `// launcher`
//! ([`lift`]). With or without nvcc they become Rust constants: `kernels::logits::TILE` is `TILE` of
//! `kernels/logits.cuh`.

use std::collections::BTreeMap;
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
/// What is written as PTX's version, so that drivers from CUDA 12.0 (525) on take it: nvcc names its own version,
/// though the kernels use nothing that is newer than this.
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
    println!("cargo::rustc-env=FLIPK_OPT_LEVEL={}", env::var("OPT_LEVEL")?);
    let nvcc = find_nvcc(&root).filter(|_| env::var_os("CARGO_FEATURE_CUDA").is_some());
    let sources = match nvcc {
        Some(_) => files(&root.join("kernels"), "cu")?,
        None => Vec::new(),
    };
    let version = match &nvcc {
        Some(nvcc) => {
            println!("cargo::rerun-if-changed={}", nvcc.display());
            compile_all(nvcc, &sources, &out)?
        }
        None => String::new(),
    };
    let mut table = format!("/// The version of nvcc.\npub const NVCC: &str = {version:?};\n");
    table += "/// Name and PTX of each kernel.\npub const KERNELS: &[(&str, &str)] = &[\n";
    for source in &sources {
        let name = stem(source);
        writeln!(table, "    ({name:?}, include_str!(concat!(env!(\"OUT_DIR\"), \"/{name}.ptx\"))),")?;
    }
    table += "];\n";
    table += &constants(&root.join("kernels"))?;
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

/// The files of a folder with this extension, sorted.
fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let paths = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let mut files: Vec<PathBuf> =
        paths.into_iter().filter(|path| path.extension().is_some_and(|found| found == extension)).collect();
    files.sort();
    Ok(files)
}

/// A Rust module for each kernel source or header that shares constants with its launcher.
fn constants(folder: &Path) -> Result<String> {
    let mut modules = String::new();
    for file in files(folder, "cu")?.into_iter().chain(files(folder, "cuh")?) {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let constants = lift(&format!("kernels/{name}"), &fs::read_to_string(&file)?)?;
        if !constants.is_empty() {
            let module = stem(&file);
            writeln!(modules, "/// Constants of `kernels/{name}`.\npub mod {module} {{\n{constants}}}")?;
        }
    }
    Ok(modules)
}

/// The lines of a kernel source that end in `// launcher` as Rust constants. Two forms are understood, anything else is
/// an error that names file and line:
///
/// - `constexpr int NAME = 2 * 64; // launcher` is a `usize` (an integer or a product of integers);
/// - uses of a macro, `NAME(64, 32) // launcher`, are the rows of an array.
pub fn lift(file: &str, text: &str) -> std::result::Result<String, String> {
    let (mut numbers, mut rows) = (BTreeMap::new(), BTreeMap::<&str, Vec<Vec<usize>>>::new());
    for (index, line) in text.lines().enumerate() {
        let Some(code) = line.trim().strip_suffix("// launcher").map(str::trim) else { continue };
        let wrong = |what: &str| format!("{file}:{}: {what}: {}", index + 1, line.trim());
        let known = |name: &str| match name.starts_with(|first: char| first.is_ascii_uppercase())
            && name.chars().all(|each| each.is_ascii_uppercase() || each.is_ascii_digit() || each == '_')
        {
            true => Ok(()),
            false => Err(wrong("a launcher's constant has a name in capitals")),
        };
        if let Some(declaration) = code.strip_prefix("constexpr int ") {
            let parts = declaration.strip_suffix(';').and_then(|rest| rest.split_once('='));
            let (name, value) = parts.ok_or_else(|| wrong("expected `constexpr int NAME = NUMBER;`"))?;
            let factors = value.split('*').map(|factor| factor.trim().parse::<usize>().ok());
            let product = factors.reduce(|a, b| a?.checked_mul(b?)).flatten();
            known(name.trim())?;
            let value = product.ok_or_else(|| wrong("expected an integer or a product of integers"))?;
            if numbers.insert(name.trim(), value).is_some() {
                return Err(wrong("declared twice"));
            }
        } else {
            let parts = code.strip_suffix(')').and_then(|rest| rest.split_once('('));
            let (name, values) = parts.ok_or_else(|| wrong("expected `constexpr int` or a macro's use"))?;
            known(name)?;
            let row: Option<Vec<usize>> = values.split(',').map(|value| value.trim().parse().ok()).collect();
            let row = row.ok_or_else(|| wrong("expected integers between the parentheses"))?;
            let rows = rows.entry(name).or_default();
            if rows.first().is_some_and(|first| first.len() != row.len()) {
                return Err(wrong("the line before has another number of values"));
            }
            rows.push(row);
        }
    }
    if let Some(name) = rows.keys().find(|name| numbers.contains_key(*name)) {
        return Err(format!("{file}: {name} is a number and a macro"));
    }
    let mut constants = String::new();
    for (name, value) in numbers {
        constants += &format!("    /// `{name}`.\n    pub const {name}: usize = {value};\n");
    }
    for (name, rows) in rows {
        let (each, count) = (rows[0].len(), rows.len());
        constants +=
            &format!("    /// Uses of `{name}`.\n    pub const {name}: [[usize; {each}]; {count}] = {rows:?};\n");
    }
    Ok(constants)
}

/// Compiles on all cores what is not up to date, and returns nvcc's version.
fn compile_all(nvcc: &Path, sources: &[PathBuf], out: &Path) -> Result<String> {
    let about = Command::new(nvcc).arg("--version").output().map_err(|error| format!("{}: {error}", nvcc.display()))?;
    let about = String::from_utf8_lossy(&about.stdout).into_owned();
    let version = about.rsplit_once(", V").map_or(about.trim(), |(_, rest)| rest.lines().next().unwrap_or_default());
    let mut common = DefaultHasher::new();
    (nvcc, &about, ARCH, PTX_VERSION, fs::read("build.rs")?).hash(&mut common);
    let headers = sources.first().and_then(|source| source.parent()).map(|folder| files(folder, "cuh")).transpose()?;
    for header in headers.unwrap_or_default() {
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
