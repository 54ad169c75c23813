//! Small checksummed files: one line with a magic word, a format version and a CRC, then JSON.
//!
//! Why: such a file decides which node this is, so a flipped byte must be detected and a newer format named.
//!
//! See also: [`super::identity`] and [`super::peer_boot_ids`] (the contents).

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Error;

/// The name and the versions of a file.
pub(crate) struct FileFormat {
    /// The file name.
    pub file: &'static str,
    /// The magic word at its beginning.
    pub magic: &'static str,
    /// The oldest readable version.
    pub oldest: u32,
    /// The current version.
    pub version: u32,
}

impl FileFormat {
    /// Encodes a value.
    pub fn encode(&self, value: &impl Serialize) -> Vec<u8> {
        let mut json = serde_json::to_string_pretty(value).expect("numbers, booleans and strings are always JSON");
        json.push('\n');
        let (magic, version) = (self.magic, self.version);
        format!("{magic} {version} {:08x}\n{json}", crc32fast::hash(json.as_bytes())).into_bytes()
    }

    /// Decodes a value.
    ///
    /// # Errors
    /// [`Error::Newer`] and [`Error::Damaged`], both naming `directory`.
    pub fn decode<T: DeserializeOwned>(&self, bytes: &[u8], directory: &str) -> Result<T, Error> {
        let damaged =
            |detail: &str| Error::Damaged { what: self.file.into(), detail: detail.into(), path: directory.into() };
        let (line, json) = bytes
            .iter()
            .position(|byte| *byte == b'\n')
            .and_then(|end| Some((std::str::from_utf8(&bytes[..end]).ok()?, &bytes[end + 1..])))
            .ok_or_else(|| damaged("its first line is missing"))?;
        // Example of a first line: `huskv-identity 2 e2d42d36`. The checksum covers the JSON after the line.
        let words: Vec<&str> = line.split(' ').collect();
        let &[magic, version, checksum] = words.as_slice() else { return Err(damaged("its first line is not ours")) };
        let version: u32 = version.parse().map_err(|_| damaged("its first line is not ours"))?;
        if magic != self.magic || version < self.oldest {
            return Err(damaged("its first line is not ours"));
        }
        if version > self.version {
            return Err(Error::Newer { what: self.file.into(), found: version, known: self.version });
        }
        if checksum != format!("{:08x}", crc32fast::hash(json)) {
            return Err(damaged("its checksum does not fit"));
        }
        serde_json::from_slice(json).map_err(|error| damaged(&format!("it cannot be read: {error}")))
    }
}
