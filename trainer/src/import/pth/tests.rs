use super::*;
use proptest::prelude::*;

fn str(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.as_bytes());
}

fn ints(out: &mut Vec<u8>, values: &[u8]) {
    out.push(b'(');
    for &value in values {
        out.extend([b'K', value]);
    }
    out.push(b't');
}

/// `_rebuild_tensor_v2(storage, offset, shape, strides, False, OrderedDict())`, as PyTorch writes it.
fn tensor(out: &mut Vec<u8>, storage: (&str, &str, u8), offset: u8, shape: &[u8], strides: &[u8]) {
    out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
    str(out, "storage");
    out.extend(format!("ctorch\n{}\n", storage.0).bytes());
    str(out, storage.1);
    str(out, "cpu");
    out.extend([b'K', storage.2, b'N', b't', b'Q', b'K', offset]);
    ints(out, shape);
    ints(out, strides);
    out.extend(b"\x89ccollections\nOrderedDict\n)Rt");
    out.push(b'R');
}

/// A file with `a` (2x2 of consecutive numbers from 1), `b` (the same storage transposed, from its second row of
/// three) and `count` (one 64-bit integer).
fn file() -> Vec<u8> {
    let mut out = b"\x80\x02\x8a\x0a".to_vec();
    out.extend(MAGIC);
    out.extend(b".\x80\x02M\xe9\x03.\x80\x02}q\x00(");
    str(&mut out, "little_endian");
    out.extend(b"\x88u.");
    out.extend(b"\x80\x02ccollections\nOrderedDict\nq\x00)Rq\x01(");
    str(&mut out, "a");
    tensor(&mut out, ("FloatStorage", "7", 6), 0, &[2, 2], &[2, 1]);
    str(&mut out, "b");
    tensor(&mut out, ("FloatStorage", "7", 6), 1, &[2, 2], &[1, 3]);
    str(&mut out, "count");
    tensor(&mut out, ("LongStorage", "8", 1), 0, &[], &[]);
    out.extend(b"u}");
    str(&mut out, "_metadata");
    out.extend(b"Nsb.");
    out.extend(b"\x80\x02]q\x00(");
    str(&mut out, "7");
    str(&mut out, "8");
    out.extend(b"e.");
    out.extend(6i64.to_le_bytes());
    for value in 1..=6 {
        out.extend((value as f32).to_le_bytes());
    }
    out.extend(1i64.to_le_bytes());
    out.extend(42i64.to_le_bytes());
    out
}

#[test]
fn tensors_are_read_by_their_strides() {
    let tensors = read(&file()).unwrap();
    assert_eq!(tensors.keys().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(
        tensors["a"],
        PthTensor {
            shape: vec![2, 2],
            data: vec![1.0, 2.0, 3.0, 4.0]
        }
    );
    assert_eq!(
        tensors["b"],
        PthTensor {
            shape: vec![2, 2],
            data: vec![2.0, 5.0, 3.0, 6.0]
        }
    );
}

/// The tensors of [`file`] as PyTorch writes them since 1.6.
fn archive(method: CompressionMethod) -> Vec<u8> {
    use std::io::Write;
    let mut pickle = b"\x80\x02ccollections\nOrderedDict\nq\x00)Rq\x01(".to_vec();
    for (name, offset, strides) in [("a", 0, [2, 1]), ("b", 1, [1, 3])] {
        str(&mut pickle, name);
        let start = pickle.len();
        tensor(&mut pickle, ("FloatStorage", "7", 6), offset, &[2, 2], &strides);
        // No view in the persistent id.
        let view = start + pickle[start..].windows(3).position(|w| w == b"NtQ").unwrap();
        pickle.remove(view);
    }
    pickle.extend(b"u.");
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let options = zip::write::FileOptions::default().compression_method(method);
    writer.start_file("archive/data.pkl", options).unwrap();
    writer.write_all(&pickle).unwrap();
    writer.start_file("archive/data/7", options).unwrap();
    for value in 1..=6 {
        writer.write_all(&(value as f32).to_le_bytes()).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

#[test]
fn both_formats_hold_the_same_tensors() {
    assert_eq!(
        read(&archive(CompressionMethod::Stored)).unwrap(),
        read(&file()).unwrap()
    );
}

#[test]
fn an_archive_without_its_storage_is_an_error() {
    let mut bytes = archive(CompressionMethod::Stored);
    let name = b"archive/data/7";
    while let Some(at) = bytes.windows(name.len()).position(|window| window == name) {
        bytes[at + name.len() - 1] = b'8';
    }
    let message = format!("{:#}", read(&bytes).unwrap_err());
    assert!(message.contains("archive/data/7"), "{message}");
}

#[test]
fn a_cut_file_is_an_error_at_every_length() {
    let file = file();
    for length in 0..file.len() {
        assert!(read(&file[..length]).is_err(), "{length} of {} bytes", file.len());
    }
}

#[test]
fn a_tensor_outside_its_storage_is_an_error() {
    let file = file();
    // The offset of `b`: its storage of six elements ends before 3 + 1 + 3.
    let at = file.windows(2).position(|pair| pair == [b'Q', b'K']).unwrap();
    let at = at
        + 1
        + file[at + 1..]
            .windows(2)
            .position(|pair| pair == [b'Q', b'K'])
            .unwrap();
    let mut broken = file.clone();
    broken[at + 2] = 3;
    let message = format!("{:#}", read(&broken).unwrap_err());
    assert!(
        message.contains("tensor b") && message.contains("outside"),
        "{message}"
    );
}

#[test]
fn what_a_pickle_could_call_is_refused() {
    let mut file = file();
    let name = b"_rebuild_tensor_v2";
    let at = file
        .windows(name.len())
        .position(|window| window == name)
        .unwrap();
    file.splice(at - 13..at + name.len(), b"os\nsystem".iter().copied());
    let message = format!("{:#}", read(&file).unwrap_err());
    assert!(message.contains("os.system"), "{message}");
}

#[test]
fn other_formats_are_named() {
    assert!(read(b"PK\x03\x04").is_err());
    assert!(
        read(b"\x80\x02K\x01.")
            .unwrap_err()
            .to_string()
            .contains("no PyTorch")
    );
}

#[test]
fn deep_nesting_does_not_recurse() {
    let mut file = b"\x80\x02)".to_vec();
    file.extend(std::iter::repeat_n(0x85, 1_000_000));
    file.push(b'.');
    assert!(read(&file).is_err());
}

proptest! {
    #[test]
    fn changed_bytes_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut file = file();
        for (index, byte) in changes {
            let at = index.index(file.len());
            file[at] = byte;
        }
        let _ = read(&file);
    }
}
