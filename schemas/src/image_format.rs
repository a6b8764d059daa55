//! What a file is by its first bytes, whatever its name says.

/// As many bytes tell the format of any file that has one of these.
pub const SIGNATURE_BYTES: usize = 132;

/// A format of images that the models read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageFormat {
    /// PNG.
    Png,
    /// JPEG.
    Jpeg,
}

/// Starts of files that are images, but of formats that the published system does not read.
const OTHERS: [(&str, usize, &[u8]); 7] = [
    ("GIF", 0, b"GIF8"),
    ("WebP", 8, b"WEBP"),
    ("TIFF", 0, b"II*\0"),
    ("TIFF", 0, b"MM\0*"),
    ("BMP", 0, b"BM"),
    ("JPEG 2000", 4, b"jP  "),
    ("DICOM", 128, b"DICM"),
];

impl ImageFormat {
    /// What [`ImageFormat::of`] says of a file that is no image of any known format.
    pub const NONE: &str = "not an image";

    /// The signature that each file of this format begins with.
    pub const fn signature(self) -> &'static [u8] {
        match self {
            Self::Png => b"\x89PNG\r\n\x1a\n",
            Self::Jpeg => b"\xff\xd8\xff",
        }
    }

    /// The format of a file that begins with these bytes.
    ///
    /// # Errors
    /// What it is instead, for a message: `a DICOM file`, or `not an image`.
    pub fn of(start: &[u8]) -> Result<Self, String> {
        let mut formats = [Self::Png, Self::Jpeg].into_iter();
        if let Some(format) = formats.find(|format| start.starts_with(format.signature())) {
            return Ok(format);
        }
        let known = OTHERS.iter().find(|(_, offset, magic)| {
            let rest = start.get(*offset..);
            rest.is_some_and(|rest| rest.starts_with(magic))
        });
        Err(known.map_or(Self::NONE.into(), |(name, ..)| format!("a {name} file")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_is_told_by_the_first_bytes() {
        assert_eq!(
            ImageFormat::of(b"\x89PNG\r\n\x1a\n..."),
            Ok(ImageFormat::Png)
        );
        assert_eq!(ImageFormat::of(b"\xff\xd8\xff\xe0"), Ok(ImageFormat::Jpeg));
        let mut dicom = vec![0; 128];
        dicom.extend(b"DICM");
        assert_eq!(dicom.len(), SIGNATURE_BYTES);
        for (start, what) in [
            (dicom.as_slice(), "a DICOM file"),
            (b"GIF89a", "a GIF file"),
            (b"PATH=/usr/bin\0HOME=/root", "not an image"),
            (b"\x89PN", "not an image"),
            (b"", "not an image"),
        ] {
            assert_eq!(ImageFormat::of(start), Err(what.to_owned()));
        }
    }
}
