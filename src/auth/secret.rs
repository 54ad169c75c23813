//! The text of a secret: `hkv_`, 43 characters for 256 random bits, and 6 check characters.
//!
//! Why: the prefix and the checksum let a secret scanner find a secret that was published by mistake, and a mistyped one is noticed
//! without a look at any token.
//!
//! Invariants: a secret has 256 random bits, so one round of SHA-256 is enough to store it: there is nothing to guess.
//!
//! Example: 32 zero bytes are `hkv_`, 43 times `0`, and the CRC32 of these 47 characters in base 62.

use std::fmt;

use sha2::{Digest, Sha256};
use thiserror::Error;

/// What every secret begins with.
const PREFIX: &str = "hkv_";
/// The digits of base 62, in ascending order.
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// 62^43 is just above 2^256.
const RANDOM_DIGITS: usize = 43;
/// 62^6 is above 2^32.
const CHECK_DIGITS: usize = 6;

/// A new secret. It is shown where it is asked for, and nowhere else.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// Why a text cannot be a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Malformed {
    /// Prefix, length or characters are others.
    #[error("it does not have the form of a secret (hkv_ and 49 letters and digits)")]
    Form,
    /// The check characters are those of another secret.
    #[error("its check characters do not fit, so it is mistyped or cut")]
    Check,
}

impl Secret {
    /// Draws a secret.
    ///
    /// # Errors
    /// Where the system has no random numbers.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut random = [0; 32];
        getrandom::fill(&mut random)?;
        Ok(Self::of(random))
    }

    fn of(mut random: [u8; 32]) -> Self {
        let mut digits = [b'0'; RANDOM_DIGITS];
        for digit in digits.iter_mut().rev() {
            *digit = DIGITS[usize::from(divide_by_62(&mut random))];
        }
        let mut text = PREFIX.to_owned();
        text.extend(digits.iter().map(|digit| char::from(*digit)));
        text.extend(check_digits(text.as_bytes()).iter().map(|digit| char::from(*digit)));
        Self(text)
    }

    /// The text, to be shown once.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(...)")
    }
}

/// Hashes a secret as the token file has it.
///
/// # Errors
/// [`Malformed`] where the text is no secret: a password of a person's choice could be guessed out of a fast hash.
pub fn hash(text: &str) -> Result<[u8; 32], Malformed> {
    let digits = text.strip_prefix(PREFIX).ok_or(Malformed::Form)?;
    if digits.len() != RANDOM_DIGITS + CHECK_DIGITS || !digits.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(Malformed::Form);
    }
    // The check characters follow from the others, so this comparison needs no constant time.
    let (checked, check) = text.as_bytes().split_at(PREFIX.len() + RANDOM_DIGITS);
    if check != check_digits(checked) {
        return Err(Malformed::Check);
    }
    Ok(Sha256::digest(text.as_bytes()).into())
}

fn check_digits(text: &[u8]) -> [u8; CHECK_DIGITS] {
    let mut rest = crc32fast::hash(text);
    let mut digits = [b'0'; CHECK_DIGITS];
    for digit in digits.iter_mut().rev() {
        *digit = DIGITS[usize::try_from(rest % 62).unwrap_or_default()];
        rest /= 62;
    }
    digits
}

/// Divides a big-endian number by 62 in place and returns the remainder.
fn divide_by_62(number: &mut [u8; 32]) -> u8 {
    let mut remainder = 0_u16;
    for byte in number {
        let value = remainder * 256 + u16::from(*byte);
        *byte = u8::try_from(value / 62).unwrap_or(u8::MAX);
        remainder = value % 62;
    }
    u8::try_from(remainder).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_256_bits_in_base_62_with_its_checksum() {
        // Computed with Python: zlib.crc32 and divmod.
        for (random, text) in [
            ([0; 32], "hkv_00000000000000000000000000000000000000000002ZeHOK"),
            ([255; 32], "hkv_yhjskwdA6OZ1AL1YmHWZWm8LLG7HjnuCA2j5rOw8Xp10iMeYy"),
        ] {
            assert_eq!(Secret::of(random).expose(), text);
            assert!(hash(text).is_ok());
        }
    }

    #[test]
    fn a_text_that_is_no_secret_has_no_hash() {
        let secret = Secret::generate().unwrap();
        let text = secret.expose();
        assert_ne!(Secret::generate().unwrap(), secret);
        assert_eq!(format!("{secret:?}"), "Secret(...)");
        let swapped = |at: usize| {
            let other = if text.as_bytes()[at] == b'a' { "b" } else { "a" };
            format!("{}{other}{}", &text[..at], &text[at + 1..])
        };
        for broken in
            ["", "hkv_", &text[..52], &format!("{text}0"), &text[1..], "password", &format!("HKV_{}", &text[4..])]
        {
            assert_eq!(hash(broken), Err(Malformed::Form), "{broken}");
        }
        for at in [4, 46, 47, 52] {
            assert_eq!(hash(&swapped(at)), Err(Malformed::Check), "{at}");
        }
        assert_eq!(hash(&text.replace(&text[9..10], "\u{e9}")), Err(Malformed::Form));
    }
}
