//! TensorBoard's event files: scalars over steps.
//!
//! A file is a row of records, each `u64 length, u32 crc(length), data, u32 crc(data)`, little-endian, where data is an
//! `Event` message and the CRC-32C is masked (TensorFlow's `core/lib/io/record_writer.h`, `core/util/event.proto`).

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context, Result};
use prost::Message;

#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

/// Writes a new event file.
pub struct EventWriter {
    file: File,
}

impl EventWriter {
    /// Starts a file in `folder`; TensorBoard puts those of one folder together by time.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn create(folder: &Path) -> Result<Self> {
        let now = seconds();
        let path = folder.join(format!("events.out.tfevents.{now:.6}.segd-train"));
        let file = OpenOptions::new()
            .create_new(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("making {}", path.display()))?;
        let mut writer = Self { file };
        writer.write(&Event {
            wall_time: now,
            file_version: Some("brain.Event:2".to_owned()),
            ..Default::default()
        })?;
        Ok(writer)
    }

    /// Writes the values of a step by name.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn scalars(&mut self, step: u64, values: &[(String, f64)]) -> Result<()> {
        let value = values
            .iter()
            .map(|(tag, value)| Value {
                tag: tag.clone(),
                simple_value: Some(*value as f32),
            })
            .collect();
        self.write(&Event {
            wall_time: seconds(),
            step: step as i64,
            summary: Some(Summary { value }),
            ..Default::default()
        })
    }

    fn write(&mut self, event: &Event) -> Result<()> {
        self.file
            .write_all(&record(&event.encode_to_vec()))
            .context("writing TensorBoard's event file")
    }
}

fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [
        &length[..],
        &masked_crc(&length).to_le_bytes(),
        data,
        &masked_crc(data).to_le_bytes(),
    ]
    .concat()
}

fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn seconds() -> f64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_has_the_bytes_that_tensorflow_writes() {
        // The first record of a file: wall time 0, file version "brain.Event:2".
        let event = Event {
            file_version: Some("brain.Event:2".to_owned()),
            wall_time: 1.0,
            ..Default::default()
        };
        let data = event.encode_to_vec();
        assert_eq!(data, b"\x09\0\0\0\0\0\0\xf0\x3f\x1a\x0dbrain.Event:2");
        let bytes = record(&data);
        assert_eq!(bytes[..8], [24, 0, 0, 0, 0, 0, 0, 0]);
        // Every TensorFlow event file of a 24-byte version record starts so.
        assert_eq!(bytes[8..12], [0xa3, 0x7f, 0x4b, 0x22]);
        assert_eq!(bytes.len(), 8 + 4 + 24 + 4);
    }

    #[test]
    fn scalars_are_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(folder.path()).unwrap();
        writer
            .scalars(7, &[("loss".into(), 0.5), ("mean IoU".into(), 0.25)])
            .unwrap();
        let path = std::fs::read_dir(folder.path())
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path();
        assert!(path.to_str().unwrap().contains("tfevents"));
        let bytes = std::fs::read(path).unwrap();
        let mut rest = &bytes[..];
        let mut events = Vec::new();
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            let data = &rest[12..12 + length];
            assert_eq!(rest[12 + length..16 + length], masked_crc(data).to_le_bytes());
            events.push(Event::decode(data).unwrap());
            rest = &rest[16 + length..];
        }
        assert_eq!(events.len(), 2);
        assert_eq!(events[1].step, 7);
        let values = &events[1].summary.as_ref().unwrap().value;
        assert_eq!(
            (values[0].tag.as_str(), values[0].simple_value),
            ("loss", Some(0.5))
        );
        assert_eq!(values[1].simple_value, Some(0.25));
    }
}
