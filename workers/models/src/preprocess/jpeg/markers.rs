//! The marker segments of a JPEG file (ITU T.81, annex B): the frame, and whether the file says all that it should.

/// The frame marker of JPEG-LS (ITU T.87).
const JPEG_LS: u8 = 0xF7;

/// The frame header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    /// The marker's code, which names the coding process: 0xC0 baseline, 0xC1 extended, 0xC2 progressive, …
    pub(super) process: u8,
    pub(super) precision: u8,
    pub(super) width: u16,
    pub(super) height: u16,
    pub(super) components: u8,
}

/// What the marker segments of a file say.
#[derive(Clone, Debug)]
pub(super) struct Markers {
    pub(super) frame: Frame,
    /// Number of scan headers.
    pub(super) scans: usize,
    /// Whether the end marker is there.
    pub(super) has_end: bool,
    /// Whether each coefficient of each component has been sent with all of its bits.
    pub(super) has_all_scans: bool,
}

/// Bits that each of a component's 64 coefficients still lacks; none before its first scan.
type MissingBits = [Option<u8>; 64];

/// The name of a coding process, for messages.
pub(super) fn process_name(process: u8) -> &'static str {
    match process {
        0xC0 => "the baseline process",
        0xC1 => "the extended process",
        0xC2 => "the progressive process",
        0xC3 => "the lossless process",
        0xC5..=0xC7 => "a hierarchical process",
        JPEG_LS => "JPEG-LS",
        _ => "a process with arithmetic coding",
    }
}

impl Markers {
    /// Follows the markers to the end of the image, or of the file; `bytes` begins before the first marker behind the start
    /// of the image.
    ///
    /// # Errors
    /// A file without a frame.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, &'static str> {
        let mut frame: Option<(Frame, Vec<u8>)> = None;
        let mut missing: Vec<MissingBits> = Vec::new();
        let (mut at, mut scans) = (0, 0);
        let has_end = loop {
            let Some(marker) = next_marker(bytes, &mut at) else {
                break false;
            };
            match marker {
                0xD9 => break true,
                0x01 | 0xD0..=0xD8 => continue,
                _ => {}
            }
            let Some(segment) = segment(bytes, at) else {
                break false;
            };
            at += 2 + segment.len();
            match marker {
                0xC4 | 0xC8 | 0xCC => {}
                0xC0..=0xCF | JPEG_LS if frame.is_none() => {
                    let parsed = parse_frame(marker, segment).ok_or("bad frame header")?;
                    missing = vec![[None; 64]; parsed.1.len()];
                    frame = Some(parsed);
                }
                0xDA => {
                    scans += 1;
                    if let Some((frame, ids)) = &frame {
                        note_scan(frame.process, ids, segment, &mut missing);
                    }
                }
                _ => {}
            }
        };
        let (frame, _) = frame.ok_or("no frame header")?;
        Ok(Self {
            frame,
            scans,
            has_end,
            has_all_scans: missing.iter().flatten().all(|bits| *bits == Some(0)),
        })
    }
}

/// The segment behind a marker, without its length.
fn segment(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let length = bytes.get(at..at + 2)?;
    let length = usize::from(u16::from_be_bytes([length[0], length[1]])).max(2);
    bytes.get(at + 2..at + length)
}

/// The next marker's code; skips entropy-coded data with its stuffed zeros, and stray bytes as libjpeg does.
fn next_marker(bytes: &[u8], at: &mut usize) -> Option<u8> {
    loop {
        *at += bytes.get(*at..)?.iter().position(|&byte| byte == 0xFF)?;
        *at += bytes[*at..].iter().position(|&byte| byte != 0xFF)?;
        *at += 1;
        match bytes[*at - 1] {
            0x00 => {}
            code => return Some(code),
        }
    }
}

/// The frame and the ids of its components; none where it contradicts itself.
fn parse_frame(process: u8, segment: &[u8]) -> Option<(Frame, Vec<u8>)> {
    let &[precision, h1, h0, w1, w0, components, ref rest @ ..] = segment else {
        return None;
    };
    // The lossless processes have others, too.
    let is_lossy = !matches!(process, 0xC3 | 0xC7 | 0xCB | 0xCF | JPEG_LS);
    if is_lossy && !matches!(precision, 8 | 12) || rest.len() != 3 * usize::from(components) {
        return None;
    }
    let frame = Frame {
        process,
        precision,
        width: u16::from_be_bytes([w1, w0]),
        height: u16::from_be_bytes([h1, h0]),
        components,
    };
    let ids = rest.chunks_exact(3).map(|entry| entry[0]).collect();
    Some((frame, ids))
}

/// Notes what a scan sends: its components' coefficients from `start` to `end`, all bits but the last `low` ones. Only a
/// progressive file sends less than everything at once.
fn note_scan(process: u8, ids: &[u8], segment: &[u8], missing: &mut [MissingBits]) {
    let count = usize::from(segment.first().copied().unwrap_or(0));
    let (Some(selectors), Some(&[start, end, approximation])) = (
        segment.get(1..1 + 2 * count),
        segment.get(1 + 2 * count..4 + 2 * count),
    ) else {
        return;
    };
    let (range, low) = match process {
        0xC2 => (
            usize::from(start)..=usize::from(end.min(63)),
            approximation & 15,
        ),
        _ => (0..=63, 0),
    };
    for selector in selectors.chunks_exact(2) {
        for (id, bits) in ids.iter().zip(missing.iter_mut()) {
            if *id == selector[0] {
                for index in range.clone() {
                    bits[index] = Some(low);
                }
            }
        }
    }
}
