//! Whether a video file ends where it says that it does. Demuxers take the end of a file for the end of the video, and a
//! copy that was broken off plays without a word.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// Boxes, chunks and pages that are looked at in a file.
const MOST_STEPS: usize = 1_000_000;
/// How much of an Ogg file's end is searched for its last page, whose most is 64 KiB.
const OGG_TAIL: u64 = 1 << 17;
/// How much of a program stream's end is searched for its last pack; packs have some KiB.
const PROGRAM_TAIL: u64 = 1 << 18;

/// Why the file at `path` is shorter than it should be; `None` if it is whole, can't be read, or is of a kind that doesn't
/// tell (raw streams). A cut between two packets of a transport or program stream can't be seen.
pub fn cut_short(path: &Path) -> Option<String> {
    let meta = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file)?;
    let mut file = File::open(path).ok()?;
    look(&mut file, meta.len()).ok().flatten()
}

/// As [`cut_short`], of `bytes` bytes.
///
/// # Errors
/// What reading gives.
fn look(file: &mut (impl Read + Seek), bytes: u64) -> io::Result<Option<String>> {
    let mut start = [0; 16];
    let read = read_up_to(file, &mut start)?;
    let start = &start[..read];
    let said = if start.starts_with(b"\x1a\x45\xdf\xa3") {
        matroska(file)?
    } else if start.starts_with(b"RIFF") {
        riff(file, bytes)?
    } else if start.get(4..8).is_some_and(is_first_box) {
        boxes(file, bytes)?
    } else if start.starts_with(b"OggS") {
        return ogg(file, bytes);
    } else if start.first() == Some(&0x47) {
        return transport_stream(file, bytes);
    } else if start.starts_with(b"FLV\x01") {
        return flash_video(file, bytes);
    } else if start.starts_with(&[0, 0, 1, 0xba]) {
        return program_stream(file, bytes);
    } else {
        None
    };
    Ok(said
        .filter(|said| *said > bytes)
        .map(|said| format!("it says that it has {said} bytes, and {bytes} are there")))
}

fn read_up_to(file: &mut impl Read, to: &mut [u8]) -> io::Result<usize> {
    let mut read = 0;
    while read < to.len() {
        match file.read(&mut to[read..]) {
            Ok(0) => break,
            Ok(n) => read += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(read)
}

fn is_first_box(name: &[u8]) -> bool {
    [
        &b"ftyp"[..],
        b"styp",
        b"moov",
        b"mdat",
        b"free",
        b"skip",
        b"wide",
        b"pnot",
    ]
    .contains(&name)
}

/// ISO base media: boxes of a size and a name, one after the other (ISO/IEC 14496-12, 4.2).
fn boxes(file: &mut (impl Read + Seek), bytes: u64) -> io::Result<Option<u64>> {
    let mut at = 0u64;
    for _ in 0..MOST_STEPS {
        file.seek(SeekFrom::Start(at))?;
        let mut header = [0; 16];
        let read = read_up_to(file, &mut header)?;
        if read == 0 {
            return Ok(Some(at));
        }
        if read < 8 {
            return Ok(Some(at + 8));
        }
        if !header[4..8].iter().all(|b| (b' '..=b'~').contains(b)) {
            // Something else stands behind the video.
            return Ok(None);
        }
        let size = match u32::from_be_bytes([header[0], header[1], header[2], header[3]]) {
            // To the end of the file.
            0 => return Ok(None),
            1 if read == 16 => header[8..].iter().fold(0u64, |n, b| n << 8 | u64::from(*b)),
            1 => return Ok(Some(at + 16)),
            size => size.into(),
        };
        let Some(end) = at.checked_add(size).filter(|_| size >= 8) else {
            return Ok(None);
        };
        if end >= bytes {
            return Ok(Some(end));
        }
        at = end;
    }
    Ok(None)
}

/// Matroska and WebM: a header, and a segment that states its size (RFC 8794, 4 and 6).
fn matroska(file: &mut (impl Read + Seek)) -> io::Result<Option<u64>> {
    file.seek(SeekFrom::Start(0))?;
    let mut bytes = [0; 4096];
    let read = read_up_to(file, &mut bytes)?;
    let bytes = &bytes[..read];
    /// A number of 1 to 8 bytes, and how many it has; `None` if it is cut or says "unknown".
    fn number(bytes: &[u8]) -> Option<(u64, usize)> {
        let first = *bytes.first()?;
        let length = first.leading_zeros() as usize + 1;
        if length > 8 {
            return None;
        }
        let mask = (1u64 << (7 * length)) - 1;
        let value = bytes
            .get(..length)?
            .iter()
            .fold(0u64, |n, b| n << 8 | u64::from(*b))
            & mask;
        (value != mask).then_some((value, length))
    }
    let segment = || {
        let (size, length) = number(bytes.get(4..)?)?;
        let at = usize::try_from(size).ok()?.checked_add(4 + length)?;
        let rest = bytes.get(at..)?.strip_prefix(b"\x18\x53\x80\x67")?;
        let (size, length) = number(rest)?;
        size.checked_add((at + 4 + length) as u64)
    };
    Ok(segment())
}

/// AVI: chunks of a name and a size, the first of them with what older players read.
fn riff(file: &mut (impl Read + Seek), bytes: u64) -> io::Result<Option<u64>> {
    let mut at = 0u64;
    for _ in 0..MOST_STEPS {
        file.seek(SeekFrom::Start(at))?;
        let mut header = [0; 8];
        if read_up_to(file, &mut header)? < 8 || &header[..4] != b"RIFF" {
            return Ok(None);
        }
        let size = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
        if matches!(size, 0 | u32::MAX) {
            // Was never completed, or is written as it is read.
            return Ok(None);
        }
        let end = at + 8 + u64::from(size);
        if end >= bytes {
            return Ok(Some(end));
        }
        at = end + end % 2;
    }
    Ok(None)
}

/// The last page of each stream is marked (RFC 3533, 6).
fn ogg(file: &mut (impl Read + Seek), bytes: u64) -> io::Result<Option<String>> {
    file.seek(SeekFrom::Start(bytes.saturating_sub(OGG_TAIL)))?;
    let mut tail = Vec::new();
    file.take(OGG_TAIL).read_to_end(&mut tail)?;
    let Some(at) = tail.windows(4).rposition(|w| w == b"OggS") else {
        return Ok(None);
    };
    let page = &tail[at..];
    // A page's header states how many pieces follow it, and how long each is.
    let whole = page.get(26).and_then(|pieces| {
        let sizes = page.get(27..27 + usize::from(*pieces))?;
        let content: usize = sizes.iter().map(|size| usize::from(*size)).sum();
        page.get(..27 + sizes.len() + content)
    });
    Ok(match whole {
        None => Some("it ends in the middle of a page".to_owned()),
        Some(page) if page[5] & 4 == 0 => Some("its last page is not marked as the last".to_owned()),
        Some(_) => None,
    })
}

/// Packets of 188 bytes, each beginning with the same byte (ISO/IEC 13818-1, 2.4.3.2).
fn transport_stream(file: &mut (impl Read + Seek), bytes: u64) -> io::Result<Option<String>> {
    file.seek(SeekFrom::Start(0))?;
    let mut start = [0; 188 * 3 + 1];
    let read = read_up_to(file, &mut start)?;
    let is_one = read == start.len() && (0..4).all(|n| start[188 * n] == 0x47);
    Ok((is_one && !bytes.is_multiple_of(188)).then(|| "it ends in the middle of a packet".to_owned()))
}

/// Flash video: tags of a stated size, each followed by that size once more; the first may tell the file's size (Adobe Flash
/// Video File Format Specification 10.1, annex E).
fn flash_video(file: &mut (impl Read + Seek), bytes: u64) -> io::Result<Option<String>> {
    const HEADER: u64 = 9;
    const TAG: u64 = 11;
    const SIZE: u64 = 4;
    file.seek(SeekFrom::Start(0))?;
    let mut start = [0; 2048];
    let read = read_up_to(file, &mut start)?;
    let key = b"filesize\0";
    let said = start[..read]
        .windows(key.len() + 8)
        .find(|window| window.starts_with(key))
        .map(|window| {
            window[key.len()..]
                .iter()
                .fold(0u64, |n, b| n << 8 | u64::from(*b))
        })
        .map(f64::from_bits)
        .filter(|said| *said > bytes as f64);
    if let Some(said) = said {
        return Ok(Some(format!(
            "it says that it has {said:.0} bytes, and {bytes} are there"
        )));
    }
    let mut at = HEADER + SIZE;
    for _ in 0..MOST_STEPS {
        if at == bytes {
            return Ok(None);
        }
        file.seek(SeekFrom::Start(at))?;
        let mut header = [0; 4];
        let read = read_up_to(file, &mut header)?;
        // Audio, video and texts; anything else is no tag, and of what is no tag nothing is known.
        if read > 0 && !matches!(header[0] & 0x1f, 8 | 9 | 18) {
            return Ok(None);
        }
        let size = header[1..].iter().fold(0u64, |n, b| n << 8 | u64::from(*b));
        at += TAG + size + SIZE;
        if read < header.len() || at > bytes {
            return Ok(Some("it ends in the middle of a tag".to_owned()));
        }
    }
    Ok(None)
}

/// MPEG program streams: packs, each a header and packets that state their size (ISO/IEC 13818-1, 2.5.3). Only the last pack
/// is taken apart.
fn program_stream(file: &mut (impl Read + Seek), bytes: u64) -> io::Result<Option<String>> {
    file.seek(SeekFrom::Start(bytes.saturating_sub(PROGRAM_TAIL)))?;
    let mut tail = Vec::new();
    file.take(PROGRAM_TAIL).read_to_end(&mut tail)?;
    let Some(mut at) = tail.windows(4).rposition(|w| w == [0, 0, 1, 0xba]) else {
        return Ok(None);
    };
    while let Some(rest) = tail.get(at..).filter(|rest| !rest.is_empty()) {
        let length = match *rest {
            [0, 0, 1, 0xb9, ..] => return Ok(None),
            // MPEG-1 and MPEG-2; the latter tells at its end how much padding follows.
            [0, 0, 1, 0xba, kind, ..] if kind & 0xf0 == 0x20 => Some(12),
            [0, 0, 1, 0xba, kind, ..] if kind & 0xc0 == 0x40 => {
                rest.get(13).map(|padding| 14 + usize::from(padding & 7))
            }
            [0, 0, 1, 0xbb..=0xff, high, low, ..] => Some(6 + usize::from(u16::from_be_bytes([high, low]))),
            [0, 0, 1, 0xba..=0xff, ..] | [0, 0, 1] | [0, 0] | [0] => None,
            // Padding behind the last packet, or no program stream.
            _ => return Ok(None),
        };
        match length {
            Some(length) if length <= rest.len() => at += length,
            _ => return Ok(Some("it ends in the middle of a packet".to_owned())),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    fn why(bytes: &[u8]) -> Option<String> {
        look(&mut Cursor::new(bytes), bytes.len() as u64).unwrap()
    }

    fn boxed(name: &[u8; 4], content: usize) -> Vec<u8> {
        let mut out = (content as u32 + 8).to_be_bytes().to_vec();
        out.extend(name);
        out.resize(8 + content, 7);
        out
    }

    fn samples() -> Vec<(&'static str, Vec<u8>, usize)> {
        let mut wide = vec![0, 0, 0, 1];
        wide.extend(b"mdat\0\0\0\0\0\0\0\x40");
        wide.resize(64, 1);
        let mp4 = [boxed(b"ftyp", 16), boxed(b"moof", 40), boxed(b"mdat", 100)].concat();
        let mut avi = b"RIFF\x38\0\0\0AVI ".to_vec();
        avi.resize(64, 3);
        let mut mkv = b"\x1a\x45\xdf\xa3\x84....\x18\x53\x80\x67\x01\0\0\0\0\0\0\x40".to_vec();
        mkv.resize(mkv.len() + 64, 5);
        let mut ts = vec![0; 188 * 5];
        ts.iter_mut().step_by(188).for_each(|sync| *sync = 0x47);
        // A page of one piece of 18 bytes.
        let page = |flags: u8| [&b"OggS\0"[..], &[flags], &[0; 20], &[1, 18], &[0; 18]].concat();
        let ogg = [page(2), page(0), page(4)].concat();
        // A tag of 7 bytes of text and one of 20 of video, the first without the file's size.
        let tag = |kind: u8, size: u8| {
            let all = u32::from(size) + 11;
            [
                &[kind, 0, 0, size][..],
                &[0; 7],
                &vec![0x27; size.into()],
                &all.to_be_bytes(),
            ]
            .concat()
        };
        let flv = [&b"FLV\x01\x01\0\0\0\x09\0\0\0\0"[..], &tag(18, 7), &tag(9, 20)].concat();
        // A pack with two bytes of padding and two packets.
        let pack = [
            &[
                0, 0, 1, 0xba, 0x44, 0, 4, 0, 4, 1, 1, 0x89, 0xc3, 0xfa, 0xff, 0xff,
            ][..],
            &[0, 0, 1, 0xe0, 0, 10],
            &[0x33; 10],
            &[0, 0, 1, 0xc0, 0, 3],
            &[0x44; 3],
        ]
        .concat();
        let ps = [&pack[..], &pack, &[0, 0, 1, 0xb9]].concat();
        // Name, file, and up to where a cut can be seen.
        vec![
            ("flv", flv, 13),
            ("ps", ps, 14),
            ("mp4", mp4, 64),
            ("long box", [boxed(b"ftyp", 8), wide].concat(), 17),
            ("avi", avi, 8),
            ("mkv", mkv, 22),
            ("ts", ts, 188 * 4),
            ("ogg", ogg, 92),
        ]
    }

    #[test]
    fn whole_files_are_whole_and_cut_ones_are_said_to_be() {
        for (name, file, seen_from) in samples() {
            assert_eq!(why(&file), None, "{name}");
            for end in seen_from + 1..file.len() {
                // A cut between two packets or boxes can't be seen.
                let between = match name {
                    "ts" => end % 188 == 0,
                    "mp4" => [24, 72].contains(&end),
                    "flv" => end == 35,
                    // Between the packs and packets, or where the next pack's start is cut: nothing of it is looked at then.
                    "ps" => [16, 32, 41, 57, 73, 82].contains(&end),
                    _ => false,
                };
                if between {
                    continue;
                }
                assert!(
                    why(&file[..end]).is_some(),
                    "{name} cut at {end} of {}",
                    file.len()
                );
            }
        }
    }

    #[test]
    fn flash_video_that_tells_its_size_is_seen_to_be_cut_anywhere() {
        let said = |size: f64| {
            let content = [
                &b"\x02\0\x0aonMetaData\x08\0\0\0\x01\0\x08filesize\0"[..],
                &size.to_be_bytes(),
            ]
            .concat();
            let size = content.len() as u8;
            let tag = [
                &[18, 0, 0, size][..],
                &[0; 7],
                &content,
                &(u32::from(size) + 11).to_be_bytes(),
            ]
            .concat();
            [&b"FLV\x01\x01\0\0\0\x09\0\0\0\0"[..], &tag].concat()
        };
        let whole = said(0.0);
        assert_eq!(why(&whole), None, "a live stream's size is not known");
        assert_eq!(why(&said(whole.len() as f64)), None);
        let cut = why(&said(whole.len() as f64 + 1000.0)).unwrap();
        assert!(cut.contains(&format!("and {} are there", whole.len())), "{cut}");
    }

    #[test]
    fn sizes_that_are_not_known_are_none() {
        let unknown = b"\x1a\x45\xdf\xa3\x84....\x18\x53\x80\x67\x01\xff\xff\xff\xff\xff\xff\xff rest";
        assert_eq!(why(unknown), None);
        let to_the_end = [boxed(b"ftyp", 8), b"\0\0\0\0mdat..".to_vec()].concat();
        assert_eq!(why(&to_the_end), None);
        let trailer = [boxed(b"ftyp", 8), b"\xff\xff\xff\xff\x01\x02\x03\x04".to_vec()].concat();
        assert_eq!(why(&trailer), None);
        assert_eq!(why(b""), None);
        assert_eq!(why(b"once upon a time"), None);
    }

    proptest! {
        #[test]
        fn no_file_does_harm(which in 0usize..8, noise in prop::collection::vec((any::<usize>(), any::<u8>()), 0..20), end in any::<usize>()) {
            let (_, mut file, _) = samples().swap_remove(which);
            for (at, byte) in noise {
                let length = file.len();
                file[at % length] = byte;
            }
            file.truncate(end % (file.len() + 1));
            let _ = why(&file);
        }
    }
}
