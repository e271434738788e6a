//! How values are written: a small envelope with kind, version and checksum, so that a damaged or foreign value is told apart from
//! a good one (fault 46).
//!
//! ```text
//! magic "SYM1" | length of kind (1) | kind | version (2, big endian) | checksum (8) | value as JSON
//! ```
//!
//! The checksum is the first quarter of the SHA-256 of kind, version and value.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Error;

const MAGIC: &[u8; 4] = b"SYM1";
const CHECKSUM_BYTES: usize = 8;

/// Encodes `value` as `kind`, version `version`.
///
/// # Errors
/// If it cannot be serialised.
pub fn encode<T: Serialize>(kind: &'static str, version: u16, value: &T) -> Result<Vec<u8>, Error> {
    let refused = |why: String| Error::Codec { kind, why };
    let kind_length = u8::try_from(kind.len()).map_err(|_| refused("its kind is longer than 255 bytes".into()))?;
    let body = serde_json::to_vec(value).map_err(|e| refused(e.to_string()))?;
    let mut bytes = Vec::with_capacity(MAGIC.len() + 1 + kind.len() + 2 + CHECKSUM_BYTES + body.len());
    bytes.extend_from_slice(MAGIC);
    bytes.push(kind_length);
    bytes.extend_from_slice(kind.as_bytes());
    bytes.extend_from_slice(&version.to_be_bytes());
    bytes.extend_from_slice(&checksum(kind.as_bytes(), version, &body));
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

/// Decodes what [`encode`] wrote as `kind`.
///
/// # Errors
/// If the kind differs, the checksum does, or the value does not fit `T`.
pub fn decode<T: DeserializeOwned>(kind: &'static str, bytes: &[u8]) -> Result<T, Error> {
    let refused = |why: String| Error::Codec { kind, why };
    let found = split(bytes).ok_or_else(|| refused("it is cut short or not ours".into()))?;
    if checksum(found.kind, found.version, found.body) != found.sum {
        return Err(refused("its checksum is wrong: it is damaged".into()));
    }
    if found.kind != kind.as_bytes() {
        return Err(refused(format!("it is a {:?}", String::from_utf8_lossy(found.kind))));
    }
    serde_json::from_slice(found.body).map_err(|e| refused(format!("version {}: {e}", found.version)))
}

struct Envelope<'a> {
    kind: &'a [u8],
    version: u16,
    sum: &'a [u8],
    body: &'a [u8],
}

fn split(bytes: &[u8]) -> Option<Envelope<'_>> {
    let (length, rest) = bytes.strip_prefix(MAGIC)?.split_first()?;
    let (kind, rest) = rest.split_at_checked(usize::from(*length))?;
    let (version, rest) = rest.split_first_chunk::<2>()?;
    let (sum, body) = rest.split_at_checked(CHECKSUM_BYTES)?;
    Some(Envelope { kind, version: u16::from_be_bytes(*version), sum, body })
}

fn checksum(kind: &[u8], version: u16, body: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    context.update(kind);
    context.update(&version.to_be_bytes());
    context.update(body);
    let digest = context.finish();
    let mut sum = [0; CHECKSUM_BYTES];
    sum.copy_from_slice(&digest.as_ref()[..CHECKSUM_BYTES]);
    sum
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(text in ".*", number in any::<u64>(), bytes in any::<Vec<u8>>()) {
            let value = (text, number, bytes);
            let encoded = encode("thing", 3, &value).unwrap();
            prop_assert_eq!(decode::<(String, u64, Vec<u8>)>("thing", &encoded).unwrap(), value);
        }

        #[test]
        fn fault_046_every_flipped_bit_is_noticed(bit in 0usize..1000) {
            let mut encoded = encode("bundle", 1, &"the authorities of a.example").unwrap();
            let bit = bit % (encoded.len() * 8);
            encoded[bit / 8] ^= 1 << (bit % 8);
            let refused = matches!(decode::<String>("bundle", &encoded), Err(Error::Codec { kind: "bundle", .. }));
            prop_assert!(refused);
        }

        #[test]
        fn no_bytes_panic_the_decoder(bytes in any::<Vec<u8>>()) {
            prop_assert!(decode::<String>("bundle", &bytes).is_err());
        }
    }

    #[test]
    fn a_value_of_another_kind_is_refused_by_name() {
        let error = decode::<String>("entry", &encode("token", 1, &"x").unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "a stored entry cannot be read: it is a \"token\"");
    }

    #[test]
    fn a_value_cut_short_is_refused() {
        let encoded = encode("token", 1, &"x").unwrap();
        for length in 0..encoded.len() {
            assert!(decode::<String>("token", &encoded[..length]).is_err(), "{length}");
        }
    }
}
