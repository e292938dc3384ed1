//! Whether outputs could be opened here, without opening them.

use std::path::Path;

use crate::config::CameraSettings;
use crate::output::{OutputSpec, StreamOptions};
use vision::error::{Error, Result};
use vision::file;

/// Checks a camera's outputs: the certificate in a handshake, and folders by a file that is made and removed again.
///
/// # Errors
/// Usage, naming the output and what is wrong.
pub fn check_outputs(camera: &CameraSettings) -> Result<()> {
    camera
        .outputs
        .iter()
        .try_for_each(|output| check_output(output, &camera.stream))
}

fn check_output(
    output: &OutputSpec,
    #[cfg_attr(
        not(feature = "gstreamer"),
        allow(unused_variables, reason = "certificates are for RTSP")
    )]
    options: &StreamOptions,
) -> Result<()> {
    match output {
        #[cfg(feature = "gstreamer")]
        OutputSpec::Rtsp(address) if address.tls => match &options.access.tls {
            Some(files) => crate::output::rtsp_auth::check_tls(files),
            None => Ok(()),
        },
        OutputSpec::Mp4(path) | OutputSpec::Mkv(path) => {
            if path.exists() {
                // It would be moved aside when the recording is complete.
                file::check(path).map_err(|e| {
                    Error::usage(format!("output {output}: a recording is a file"))
                        .caused_by(e)
                        .hint("name another one; programs that read as it is written are served by rtsp://")
                })?;
            }
            check_folder(path.parent().unwrap_or(Path::new("")), output)
        }
        OutputSpec::Scenes { path, .. } => check_folder(path.parent().unwrap_or(Path::new("")), output),
        #[cfg(feature = "gstreamer")]
        OutputSpec::Camera(device) => crate::output::camera::check_camera(device),
        OutputSpec::Record(folder) | OutputSpec::Clips(folder) => {
            // It is made if it is not there.
            let exists = folder.exists();
            check_folder(
                if exists {
                    folder
                } else {
                    folder.parent().unwrap_or(Path::new(""))
                },
                output,
            )
        }
        _ => Ok(()),
    }
}

/// A folder that files can be made in.
fn check_folder(folder: &Path, output: &OutputSpec) -> Result<()> {
    let folder = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    tempfile::Builder::new()
        .prefix(".segd-")
        .tempfile_in(folder)
        .map(|_| ())
        .map_err(|e| {
            Error::usage(format!(
                "output {output}: no file can be made in {}",
                folder.display()
            ))
            .caused_by(e)
        })
}
