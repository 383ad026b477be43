//! The kernels that build.rs compiled: name and PTX of each file under `kernels/`, and constants that launchers share
//! with them.

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// The PTX of `kernels/{name}.cu`.
pub fn ptx(name: &str) -> Option<&'static str> {
    KERNELS.iter().find(|(known, _)| *known == name).map(|(_, ptx)| *ptx)
}
