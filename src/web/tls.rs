//! TLS for HTTP, with the certificate of `rtsps://`.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwapOption;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::output::access::TlsFiles;
use vision::error::{Error, Result};
use vision::file;

/// Certificate and key are read again once both have stood still for so long: they are not written at once.
const FILES_SETTLE: Duration = Duration::from_secs(3);

/// When certificate and key were changed last.
type FileTimes = (SystemTime, SystemTime);

/// The certificate in use.
#[derive(Default)]
pub(super) struct Tls {
    config: ArcSwapOption<ServerConfig>,
    files: Mutex<Option<Files>>,
}

struct Files {
    files: TlsFiles,
    read: Option<FileTimes>,
    seen: Option<(FileTimes, Instant)>,
}

impl Tls {
    /// Uses these files from now on; `None` for no TLS.
    ///
    /// # Errors
    /// Usage, naming the files; nothing is changed then.
    pub(super) fn set(&self, files: Option<&TlsFiles>) -> Result<()> {
        let config = files.map(read).transpose()?;
        let mut slot = self.files.lock().unwrap_or_else(|e| e.into_inner());
        *slot = files.map(|files| Files {
            read: times(files),
            seen: None,
            files: files.clone(),
        });
        self.config.store(config.map(Arc::new));
        Ok(())
    }

    /// What makes a connection one over TLS, if there is a certificate.
    pub(super) fn acceptor(&self) -> Option<TlsAcceptor> {
        self.config.load_full().map(TlsAcceptor::from)
    }

    /// Reads the files again if they have changed and stand still. If they can't be read, the old ones serve.
    pub(super) fn renew(&self, now: Instant) {
        let mut slot = self.files.lock().unwrap_or_else(|e| e.into_inner());
        let Some(known) = &mut *slot else {
            return;
        };
        let Some(found) = times(&known.files) else {
            return;
        };
        if known.read == Some(found) {
            return;
        }
        match known.seen {
            Some((seen, since)) if seen == found => {
                if now.saturating_duration_since(since) < FILES_SETTLE {
                    return;
                }
            }
            _ => {
                known.seen = Some((found, now));
                return;
            }
        }
        known.read = Some(found);
        match read(&known.files) {
            Ok(config) => {
                self.config.store(Some(Arc::new(config)));
                tracing::info!("HTTPS: certificate and key have changed and are in use");
            }
            Err(e) => tracing::warn!("HTTPS: the certificate has changed, the old one stays in use: {e}"),
        }
    }
}

fn times(files: &TlsFiles) -> Option<FileTimes> {
    let changed = |path| std::fs::metadata(path).and_then(|m| m.modified()).ok();
    Some((changed(&files.certificate)?, changed(&files.key)?))
}

/// Reads certificate and key, which must belong together.
fn read(files: &TlsFiles) -> Result<ServerConfig> {
    let (certificate, key) = (files.certificate.display(), files.key.display());
    let unread = |what: &dyn std::fmt::Display, e: &dyn std::fmt::Display| {
        Error::usage(format!("{what}: can't be read as PEM: {e}"))
    };
    for path in [&files.certificate, &files.key] {
        file::check(path)
            .map_err(|e| Error::usage(format!("{}: can't be read", path.display())).caused_by(e))?;
    }
    let chain = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>)
        .map_err(|e| unread(&certificate, &e))?;
    let private = PrivateKeyDer::from_pem_file(&files.key).map_err(|e| unread(&key, &e))?;
    let wrong = |e: tokio_rustls::rustls::Error| {
        Error::usage(format!("{certificate} and {key}: not a certificate and its key"))
            .caused_by(e)
            .hint("the key must be the one that the certificate was made for")
    };
    ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::fatal("TLS has no protocol").caused_by(e))?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(wrong)
}
