//! SHA-256 of a stream.

use std::io::Read;

use sha2::{Digest, Sha256};

/// The checksum of what `from` gives, in lower-case hexadecimal.
///
/// # Errors
/// Those of reading.
pub fn sha256_of(mut from: impl Read) -> std::io::Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().iter().map(|b| format!("{b:02x}")).collect()),
            n => hasher.update(&buffer[..n]),
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_is_the_standards_example() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(super::sha256_of(&b"abc"[..]).unwrap(), abc);
    }
}
