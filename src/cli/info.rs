//! `flipk info`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

#[cfg(feature = "cuda")]
use super::gpu;
use super::put;
use crate::device::gemm::Operands;
use crate::device::isa;

/// Show version, devices, CPU features and compiled kernels
#[derive(Args)]
pub(super) struct Info {}

impl Info {
    pub(super) fn run(self) -> Result<ExitCode> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        #[cfg(feature = "cuda")]
        let [gpus, kernels] = [gpu::list(), gpu::compiled_kernels()];
        #[cfg(not(feature = "cuda"))]
        let [gpus, kernels] = ["not supported by this build (feature `cuda`)", "none"].map(str::to_owned);
        let rows = [
            ["version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()],
            ["cpu".to_owned(), format!("{}; {cores} threads", isa::processor())],
            ["features".to_owned(), format!("{}; used: {}", cpu_features().join(" "), isa::level())],
            ["gpu".to_owned(), gpus],
            ["kernels".to_owned(), kernels],
        ];
        for [name, value] in &rows {
            put(format_args!("{name:<9} {value}\n"))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The features that the CPU ops use.
fn cpu_features() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    let features = [
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512bw", is_x86_feature_detected!("avx512bw")),
        ("avx512dq", is_x86_feature_detected!("avx512dq")),
        ("avx512vl", is_x86_feature_detected!("avx512vl")),
        ("avx512bf16", is_x86_feature_detected!("avx512bf16")),
        ("amx_bf16", Operands::fast_bf16() == Some(Operands::Bf16Tiles)),
    ];
    #[cfg(target_arch = "aarch64")]
    let features = [("neon", std::arch::is_aarch64_feature_detected!("neon"))];
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let features: [(&str, bool); 0] = [];
    features.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect()
}
