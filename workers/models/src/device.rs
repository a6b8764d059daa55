//! Which device a network computes on: the one meaning of every `--device`.

pub use candle_core::Device;

/// A device that this program or machine does not have.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The name is not one of a device.
    #[error("'{0}' is not a device; use cpu, cuda or cuda:N")]
    Name(String),
    /// The device does not work.
    #[error(
        "{name} cannot be used: {source}. Check nvidia-smi, and that the program was built with --features cuda"
    )]
    Unavailable {
        /// The asked device.
        name: String,
        /// The driver's words.
        source: candle_core::Error,
    },
}

/// Opens the device of this name: `cpu`, `cuda` or `cuda:N`.
///
/// # Errors
/// Another name, or a device that does not work.
pub fn from_name(name: &str) -> Result<Device, DeviceError> {
    let ordinal = match name {
        "cpu" => return Ok(Device::Cpu),
        "cuda" => 0,
        _ => name
            .strip_prefix("cuda:")
            .and_then(|ordinal| ordinal.parse().ok())
            .ok_or_else(|| DeviceError::Name(name.to_owned()))?,
    };
    Device::new_cuda(ordinal).map_err(|source| DeviceError::Unavailable {
        name: name.to_owned(),
        source,
    })
}

/// The instructions beyond the usual ones that kernels use on this processor, by name; none where it has none of them.
pub fn cpu_instructions() -> Vec<&'static str> {
    crate::kernels::cpu::names()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_devices_are_taken() {
        assert!(from_name("cpu").is_ok_and(|device| device.is_cpu()));
        for name in ["gpu", "cuda:x", "CPU", ""] {
            assert!(
                matches!(from_name(name), Err(DeviceError::Name(_))),
                "{name}"
            );
        }
    }

    #[test]
    fn a_device_that_is_not_there_is_named() {
        let error = from_name("cuda:63")
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default();
        assert!(error.starts_with("cuda:63 cannot be used"), "{error}");
    }
}
