//! Whether the other end of an `rtsps://` stream is the one that is meant.
//!
//! Cameras nearly all show a certificate of their own making. It is trusted if it has the fingerprint that is set, or is
//! signed by (or is) a certificate in the file that is set; without either, if an authority that the system knows signed it.

use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use gstreamer_rtsp_server::gio;
use gstreamer_rtsp_server::gio::prelude::*;
use tempfile::NamedTempFile;

use crate::capture::options::CaptureOptions;
use vision::error::{Error, Result};
use vision::file;

/// An authority that has signed nothing, as its key was thrown away. Where a fingerprint is set it is the only one that
/// is known, so that every certificate is refused at first and then compared with the fingerprint.
const SIGNS_NOTHING: &str = "-----BEGIN CERTIFICATE-----
MIIBhzCCAS2gAwIBAgIUMd8oyd9iDXPSE2RmKRSwhroJeAowCgYIKoZIzj0EAwIw
GDEWMBQGA1UEAwwNc2lnbnMgbm90aGluZzAgFw0yNjExMjkyMjUxMjFaGA8yMTI2
MTEwNTIyNTEyMVowGDEWMBQGA1UEAwwNc2lnbnMgbm90aGluZzBZMBMGByqGSM49
AgEGCCqGSM49AwEHA0IABJcjL7YVOkeJd4zIv+t65lBdMIy1vv2Kal6GQJhVEABB
8WyNTdeAaVdXzcy43EAJ+ni5y5r2yOO1aFv6qkWvo4yjUzBRMB0GA1UdDgQWBBSK
/36+8uf5ppp1PCwWBJzvU9+9hDAfBgNVHSMEGDAWgBSK/36+8uf5ppp1PCwWBJzv
U9+9hDAPBgNVHRMBAf8EBTADAQH/MAoGCCqGSM49BAMCA0gAMEUCICo+jXgdrxJy
MC11Phk+x/nIxAvR1OG+fg3Nv/edjLy5AiEA5wRqz0ME+DhauBZWFngTznuoDwY6
pSjPZG6X7ckOn3Y=
-----END CERTIFICATE-----
";

/// What is trusted, and what was refused.
#[derive(Debug)]
pub(super) struct Trust {
    /// SHA-256 of the certificate, in lower-case hexadecimal digits.
    fingerprint: Option<String>,
    signed_by: SignedBy,
    refused: Mutex<Option<Refused>>,
}

/// Whose signature counts.
#[derive(Debug)]
enum SignedBy {
    /// Authorities that the system knows.
    Known,
    /// The certificates in this file.
    File(PathBuf),
    /// Nobody's: the file holds an authority that has signed nothing.
    Nobody(NamedTempFile),
}

/// A certificate that isn't trusted: why, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    pub why: String,
    pub hint: String,
}

/// Reads a SHA-256 fingerprint: 64 hexadecimal digits, colons between them or not.
fn fingerprint(text: &str) -> Result<String> {
    let digits: String = text.chars().filter(|c| !matches!(c, ':' | ' ')).collect();
    if digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(digits.to_ascii_lowercase());
    }
    Err(Error::usage(format!(
        "capture.tls_fingerprint = {text:?}, expected a SHA-256: 64 hexadecimal digits"
    ))
    .hint("`openssl x509 -in camera.pem -noout -fingerprint -sha256` prints it; so does the log when the camera is refused"))
}

impl Trust {
    /// What the options say.
    ///
    /// # Errors
    /// Usage, for a fingerprint that is none, and a file that holds no certificate.
    pub fn new(options: &CaptureOptions) -> Result<Arc<Self>> {
        let fingerprint = options.tls_fingerprint.as_deref().map(fingerprint).transpose()?;
        let signed_by = match (&fingerprint, &options.tls_ca) {
            (Some(_), _) => {
                let failed =
                    |e: std::io::Error| Error::fatal("a temporary file can't be written").caused_by(e);
                let mut file = NamedTempFile::new().map_err(failed)?;
                file.write_all(SIGNS_NOTHING.as_bytes()).map_err(failed)?;
                SignedBy::Nobody(file)
            }
            (None, Some(path)) => {
                // Said now rather than when a camera answers.
                let refused = |why: String| {
                    Error::usage(format!(
                        "capture.tls_ca: {}: no certificate can be read",
                        path.display()
                    ))
                    .caused_by(why)
                    .hint("name a PEM file with the camera's certificate, or its authority's")
                };
                file::check(path).map_err(|e| refused(e.to_string()))?;
                gio::TlsFileDatabase::new(path).map_err(|e| refused(e.to_string()))?;
                SignedBy::File(path.clone())
            }
            (None, None) => SignedBy::Known,
        };
        Ok(Arc::new(Self {
            fingerprint,
            signed_by,
            refused: Mutex::new(None),
        }))
    }

    /// Has `source`, an rtspsrc, ask here.
    pub fn apply(self: &Arc<Self>, source: &gst::Element) {
        let file = match &self.signed_by {
            SignedBy::Known => None,
            SignedBy::File(path) => Some(path.as_path()),
            SignedBy::Nobody(file) => Some(file.path()),
        };
        match file.map(gio::TlsFileDatabase::new) {
            None => {}
            Some(Ok(database)) => source.set_property("tls-database", database),
            // Whom the system trusts is not who is meant.
            Some(Err(why)) => gst::element_error!(
                source,
                gst::ResourceError::OpenRead,
                ["the certificates that are trusted can't be read: {}", why]
            ),
        }
        let trust = self.clone();
        source.connect_closure(
            "accept-certificate",
            false,
            glib::closure!(move |_: &gst::Element,
                                 _: &gio::TlsConnection,
                                 certificate: &gio::TlsCertificate,
                                 errors: gio::TlsCertificateFlags|
                  -> bool { trust.accepts(certificate, errors) }),
        );
    }

    /// The certificate that was refused last, if one was.
    pub fn refused(&self) -> Option<Refused> {
        self.refused.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// Whether a certificate is good enough that the system (or the file that is set) doesn't trust.
    fn accepts(&self, certificate: &gio::TlsCertificate, errors: gio::TlsCertificateFlags) -> bool {
        let found = certificate
            .certificate()
            .and_then(|der| {
                glib::compute_checksum_for_bytes(glib::ChecksumType::Sha256, &glib::Bytes::from(&der[..]))
            })
            .map(|sum| sum.to_string());
        let refused = match (&self.fingerprint, found) {
            (Some(wanted), Some(found)) if *wanted == found => return true,
            (Some(wanted), found) => Refused {
                why: format!(
                    "the camera's certificate isn't the one that is trusted: its fingerprint is {}, expected {wanted}",
                    found.as_deref().unwrap_or("unknown")
                ),
                hint: "if the camera has a new certificate, set capture.tls_fingerprint anew; if not, somebody else answers"
                    .into(),
            },
            (None, found) => Refused {
                why: format!("the camera's certificate isn't trusted: {}", reasons(errors).join(", ")),
                hint: format!(
                    "if the camera made it itself, compare the fingerprint with the camera's page and set \
                     capture.tls_fingerprint = \"{}\", or name a file with the certificate as capture.tls_ca",
                    found.unwrap_or_default()
                ),
            },
        };
        *self.refused.lock().unwrap_or_else(|e| e.into_inner()) = Some(refused);
        false
    }
}

/// What is wrong with a certificate, in words.
fn reasons(errors: gio::TlsCertificateFlags) -> Vec<&'static str> {
    use gio::TlsCertificateFlags as F;
    let known = [
        (F::UNKNOWN_CA, "no authority that is known here has signed it"),
        (
            F::BAD_IDENTITY,
            "it is made for another name than the address has",
        ),
        (F::NOT_ACTIVATED, "it isn't valid yet (is the clock right?)"),
        (F::EXPIRED, "it has expired"),
        (F::REVOKED, "it was revoked"),
        (F::INSECURE, "its algorithm is insecure"),
    ];
    let mut words: Vec<&str> = known
        .iter()
        .filter(|(flag, _)| errors.contains(*flag))
        .map(|(_, word)| *word)
        .collect();
    if words.is_empty() {
        words.push("its check failed");
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(fingerprint: Option<&str>) -> CaptureOptions {
        CaptureOptions {
            tls_fingerprint: fingerprint.map(str::to_owned),
            ..CaptureOptions::default()
        }
    }

    #[test]
    fn only_the_certificate_with_the_fingerprint_is_accepted() {
        let certificate = gio::TlsCertificate::from_pem(SIGNS_NOTHING).unwrap();
        let wrong = gio::TlsCertificateFlags::UNKNOWN_CA | gio::TlsCertificateFlags::BAD_IDENTITY;
        let plain = Trust::new(&options(None)).unwrap();
        assert!(!plain.accepts(&certificate, wrong));
        let refused = plain.refused().unwrap();
        assert!(
            refused.why.contains("no authority") && refused.why.contains("another name"),
            "{refused:?}"
        );
        // The hint names what would be trusted.
        let shown = refused.hint.split('"').nth(1).unwrap();
        assert_eq!(shown.len(), 64);
        let written: Vec<String> = shown
            .to_ascii_uppercase()
            .as_bytes()
            .chunks(2)
            .map(|pair| String::from_utf8(pair.to_vec()).unwrap())
            .collect();
        let pinned = Trust::new(&options(Some(&written.join(":")))).unwrap();
        assert!(pinned.accepts(&certificate, wrong));
        assert_eq!(pinned.refused(), None);
        let other = Trust::new(&options(Some(&"0".repeat(64)))).unwrap();
        assert!(!other.accepts(&certificate, wrong));
        assert!(other.refused().unwrap().why.contains(shown));
    }

    #[test]
    fn what_is_no_fingerprint_and_no_certificate_is_refused() {
        for text in ["", "abc", &"g".repeat(64), &"0".repeat(40)] {
            let error = Trust::new(&options(Some(text))).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains("capture.tls_fingerprint"), "{error}");
        }
        let file = NamedTempFile::new().unwrap();
        let none = CaptureOptions {
            tls_ca: Some(file.path().to_owned()),
            ..CaptureOptions::default()
        };
        let error = Trust::new(&none).unwrap_err();
        assert!(error.to_string().contains("capture.tls_ca"), "{error}");
    }
}
