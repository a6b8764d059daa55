//! What a file is by its first bytes, whatever its name says, and what the header of a PNG file says.

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

/// Bytes beside a damaged signature that show what a file was: most of a PNG file's own, the name of its first chunk, a JPEG
/// file's first marker, and the name of its first segment.
const MARKS: [(ImageFormat, usize, &[u8]); 5] = [
    (ImageFormat::Png, 0, b"\x89PNG"),
    (ImageFormat::Png, 12, b"IHDR"),
    (ImageFormat::Jpeg, 0, b"\xff\xd8"),
    (ImageFormat::Jpeg, 6, b"JFIF\0"),
    (ImageFormat::Jpeg, 6, b"Exif\0"),
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

    /// The format of a file that begins with these bytes. One whose signature is damaged, as by a transfer as text, is of the
    /// format that the bytes beside the damage show: it is corrupt, and not of another kind.
    ///
    /// # Errors
    /// What it is instead, for a message: `a DICOM file`, or `not an image`.
    pub fn of(start: &[u8]) -> Result<Self, String> {
        let mut formats = [Self::Png, Self::Jpeg].into_iter();
        if let Some(format) = formats.find(|format| start.starts_with(format.signature())) {
            return Ok(format);
        }
        let mut others = OTHERS.iter();
        if let Some((name, ..)) = others.find(|(_, offset, magic)| stands(start, *offset, magic)) {
            return Err(format!("a {name} file"));
        }
        let mut marks = MARKS.iter();
        let marked = marks.find(|(_, offset, magic)| stands(start, *offset, magic));
        marked
            .map(|(format, ..)| *format)
            .ok_or_else(|| Self::NONE.to_owned())
    }
}

/// What the IHDR chunk of a PNG file says, which comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PngHeader {
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
    /// The colour type (ISO 15948, 11.2.2): 0 is grey without alpha.
    pub color_type: u8,
}

impl PngHeader {
    /// Bytes of the chunk: length, name, data, checksum.
    const BYTES: usize = 25;
    /// Bytes of its data.
    const DATA: u32 = 13;

    /// Reads the header of a file that begins with these bytes.
    ///
    /// # Errors
    /// What is wrong with it, for a message. What a damaged header says of the size is no size.
    pub fn read(start: &[u8]) -> Result<Self, &'static str> {
        let chunks = start.strip_prefix(ImageFormat::Png.signature());
        let chunks = chunks.ok_or("its first bytes are damaged")?;
        let header = chunks.first_chunk::<{ Self::BYTES }>();
        let header = header.filter(|header| header[4..8] == *b"IHDR");
        let header = header.ok_or("it has no header")?;
        let word = |at: usize| {
            u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        if word(0) != Self::DATA || word(21) != crc32fast::hash(&header[4..21]) {
            return Err("its header is not that of its checksum");
        }
        Ok(Self {
            width: word(8),
            height: word(12),
            color_type: header[17],
        })
    }
}

/// Whether these bytes stand at this place of a file's start.
fn stands(start: &[u8], offset: usize, magic: &[u8]) -> bool {
    let rest = start.get(offset..);
    rest.is_some_and(|rest| rest.starts_with(magic))
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

    /// A PNG file of one grey pixel, up to the end of its header.
    const HEADER: &[u8; 33] =
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\0\0\0\0\x3a\x7e\x9b\x55";

    #[test]
    fn a_damaged_signature_is_that_of_its_format() {
        let flipped = |start: &[u8], at: usize| {
            let mut start = start.to_vec();
            start[at] ^= 1;
            ImageFormat::of(&start)
        };
        for at in 0..8 {
            assert_eq!(flipped(HEADER, at), Ok(ImageFormat::Png), "byte {at}");
        }
        for at in 0..3 {
            for name in [&b"JFIF\0"[..], b"Exif\0"] {
                let start = [&b"\xff\xd8\xff\xe0\0\x10"[..], name].concat();
                assert_eq!(flipped(&start, at), Ok(ImageFormat::Jpeg), "byte {at}");
            }
        }
        // Sent as text, once with the line ends of another system, once without the highest bits.
        let as_lines = b"\x89PNG\n\x1a\n\0\0\0\rIHDR";
        assert_eq!(ImageFormat::of(as_lines), Ok(ImageFormat::Png));
        let as_ascii: Vec<u8> = HEADER.iter().map(|byte| byte & 0x7f).collect();
        assert_eq!(ImageFormat::of(&as_ascii), Ok(ImageFormat::Png));
    }

    #[test]
    fn a_header_with_any_other_byte_is_none() {
        let whole = PngHeader {
            width: 1,
            height: 1,
            color_type: 0,
        };
        assert_eq!(PngHeader::read(HEADER), Ok(whole));
        for length in 0..HEADER.len() {
            assert!(PngHeader::read(&HEADER[..length]).is_err(), "{length}");
        }
        for at in 0..HEADER.len() {
            for bit in 0..8 {
                let mut header = *HEADER;
                header[at] ^= 1 << bit;
                assert!(PngHeader::read(&header).is_err(), "bit {bit} of byte {at}");
            }
        }
    }
}
