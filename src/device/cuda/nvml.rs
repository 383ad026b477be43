//! NVIDIA's management library (NVML): clocks, power and temperature of a GPU. It is part of the driver and loaded at
//! run time; without it, nothing is reported.
//!
//! Functions and constants are those of `nvml.h`.

use std::ffi::{CStr, OsStr, c_char, c_int, c_uint, c_void};

use libloading::Library;

use crate::device::GpuState;

const NVML_SUCCESS: c_int = 0;
const NVML_CLOCK_SM: c_uint = 1;
const NVML_CLOCK_MEM: c_uint = 2;
const NVML_TEMPERATURE_GPU: c_uint = 0;

/// `nvmlDevice_t`
struct Handle(*mut c_void);

// SAFETY: a handle belongs to no thread, and NVML is thread-safe.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

/// A GPU as the initialised library knows it.
pub(super) struct Nvml {
    library: Library,
    device: Handle,
}

impl Nvml {
    /// The GPU at this PCI address; `None` without the library, or if that does not know the GPU.
    pub(super) fn open(bus_id: &CStr) -> Option<Self> {
        Self::load("libnvidia-ml.so.1".as_ref(), bus_id)
    }

    fn load(library: &OsStr, bus_id: &CStr) -> Option<Self> {
        type Find = unsafe extern "C" fn(*const c_char, *mut *mut c_void) -> c_int;
        // SAFETY: loading the library runs its initialisers; the functions have these types in nvml.h.
        unsafe {
            let library = Library::new(library).ok()?;
            if library.get::<unsafe extern "C" fn() -> c_int>(b"nvmlInit_v2\0").ok()?() != NVML_SUCCESS {
                return None;
            }
            // From here on, dropping `this` shuts the library down.
            let mut this = Self { library, device: Handle(std::ptr::null_mut()) };
            let find = *this.library.get::<Find>(b"nvmlDeviceGetHandleByPciBusId_v2\0").ok()?;
            (find(bus_id.as_ptr(), &mut this.device.0) == NVML_SUCCESS).then_some(this)
        }
    }

    /// What the GPU reports now; quantities that this kind of GPU does not measure are `None`.
    pub(super) fn state(&self) -> GpuState {
        GpuState {
            sm_clock_mhz: self.ask_kind(b"nvmlDeviceGetClockInfo\0", NVML_CLOCK_SM),
            memory_clock_mhz: self.ask_kind(b"nvmlDeviceGetClockInfo\0", NVML_CLOCK_MEM),
            power_watts: self.power_milliwatts().map(|power| f64::from(power) / 1e3),
            temperature_celsius: self.ask_kind(b"nvmlDeviceGetTemperature\0", NVML_TEMPERATURE_GPU),
        }
    }

    /// A number of the given kind.
    fn ask_kind(&self, function: &[u8], kind: c_uint) -> Option<u32> {
        type Ask = unsafe extern "C" fn(*mut c_void, c_uint, *mut c_uint) -> c_int;
        let mut value = 0;
        // SAFETY: both functions of `state` have this type in nvml.h; the handle came from the library.
        let returned = unsafe { self.library.get::<Ask>(function).ok()?(self.device.0, kind, &mut value) };
        (returned == NVML_SUCCESS).then_some(value)
    }

    fn power_milliwatts(&self) -> Option<u32> {
        type Ask = unsafe extern "C" fn(*mut c_void, *mut c_uint) -> c_int;
        let mut value = 0;
        // SAFETY: its type in nvml.h; the handle came from the library.
        let returned =
            unsafe { self.library.get::<Ask>(b"nvmlDeviceGetPowerUsage\0").ok()?(self.device.0, &mut value) };
        (returned == NVML_SUCCESS).then_some(value)
    }
}

impl Drop for Nvml {
    fn drop(&mut self) {
        // SAFETY: its type in nvml.h; the library was initialised.
        unsafe {
            if let Ok(shutdown) = self.library.get::<unsafe extern "C" fn() -> c_int>(b"nvmlShutdown\0") {
                shutdown();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Knows one GPU, which does not measure its temperature.
    const FAKE: &str = r#"
        #include <string.h>
        static int gpu;
        int nvmlInit_v2(void) { return 0; }
        int nvmlShutdown(void) { return 0; }
        int nvmlDeviceGetHandleByPciBusId_v2(const char *id, void **device) {
            *device = &gpu;
            return strcmp(id, "0000:01:00.0") ? 6 : 0;
        }
        int nvmlDeviceGetClockInfo(void *device, unsigned kind, unsigned *mhz) {
            *mhz = kind == 1 ? 1755 : kind == 2 ? 2619 : 0;
            return device == &gpu ? 0 : 2;
        }
        int nvmlDeviceGetPowerUsage(void *device, unsigned *milliwatts) {
            *milliwatts = 698500;
            return device == &gpu ? 0 : 2;
        }
        int nvmlDeviceGetTemperature(void *device, unsigned kind, unsigned *celsius) { return 3; }
    "#;

    #[test]
    fn clocks_and_power_are_read_from_the_library() {
        let folder = tempfile::tempdir().unwrap();
        let [source, library] = ["fake.c", "libfake.so"].map(|name| folder.path().join(name));
        std::fs::write(&source, FAKE).unwrap();
        let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status();
        if !built.is_ok_and(|status| status.success()) {
            return println!("skipped: there is no C compiler here");
        }
        let state = Nvml::load(library.as_os_str(), c"0000:01:00.0").unwrap().state();
        let expected = GpuState {
            sm_clock_mhz: Some(1755),
            memory_clock_mhz: Some(2619),
            power_watts: Some(698.5),
            temperature_celsius: None,
        };
        assert_eq!(state, expected);
        assert_eq!(state.to_string(), "SM 1755 MHz, memory 2619 MHz, 698.5 W");
        assert!(Nvml::load(library.as_os_str(), c"0000:02:00.0").is_none());
        assert!(Nvml::load(folder.path().join("none.so").as_os_str(), c"0000:01:00.0").is_none());
    }
}
