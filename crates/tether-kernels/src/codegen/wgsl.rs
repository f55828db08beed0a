//! What wgpu does with a WGSL shader before a driver sees it.

use naga::front::wgsl;
use naga::valid::{Capabilities, ValidationFlags, Validator};

/// Parses and validates `code`, for a device with the features of the WGSL target.
pub(super) fn validate(code: &[u8]) -> Result<(), String> {
    let source = std::str::from_utf8(code).map_err(|error| error.to_string())?;
    let module = wgsl::parse_str(source).map_err(|error| error.emit_to_string(source))?;
    let capabilities = Capabilities::SHADER_FLOAT16 | Capabilities::SUBGROUP;
    Validator::new(ValidationFlags::all(), capabilities)
        .validate(&module)
        .map(|_| ())
        .map_err(|error| error.emit_to_string(source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_wgpu_would() {
        assert_eq!(validate(b"@compute @workgroup_size(64) fn main() {}"), Ok(()));
        assert!(validate(b"@compute @workgroup_size(64) fn main() {").is_err());
        // Parses, but the types are wrong.
        assert!(validate(b"@compute @workgroup_size(64) fn main() { let x: f32 = 1u; }").is_err());
        assert!(validate(b"enable f16; @compute @workgroup_size(64) fn main() { let x = 1.0h; }").is_ok());
        let f64 = validate(b"@compute @workgroup_size(64) fn main() { let x = 1.0lf; }");
        assert!(f64.is_err(), "not a feature of the target");
    }
}
