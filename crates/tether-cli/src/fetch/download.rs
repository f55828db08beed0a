//! Downloads that go on where the last one stopped.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use indicatif::ProgressBar;
use tether_lab::checksum::sha256_of;
use ureq::http::StatusCode;
use ureq::http::header::{CONTENT_RANGE, RANGE};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body};

use super::{FetchError, Package};

/// Attempts in a row that bring nothing.
const ATTEMPTS: usize = 4;
/// A connection that is silent for so long is given up.
const SILENCE: Duration = Duration::from_secs(60);

/// Downloads `package` to `to`, after what is there already from an attempt that was cut off, and checks it.
///
/// Proxies are taken from the environment, certificates from the system.
pub(super) fn resume(package: &Package, to: &Path, bar: &ProgressBar) -> Result<()> {
    // Certificates of the system, so that a company's own proxy is trusted where the system trusts it.
    let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
    let config = Agent::config_builder()
        .tls_config(tls)
        .timeout_connect(Some(SILENCE))
        .timeout_recv_response(Some(SILENCE))
        .timeout_per_read(Some(SILENCE));
    let agent: Agent = config.build().into();
    let mut file = OpenOptions::new().create(true).append(true).open(to)?;
    if file.metadata()?.len() > package.bytes {
        file.set_len(0)?;
    }
    let mut failures = 0;
    loop {
        let have = file.metadata()?.len();
        bar.set_position(have);
        if have == package.bytes {
            break;
        }
        if let Err(error) = attempt(&agent, package, &mut file, have, bar) {
            failures = if file.metadata()?.len() > have { 0 } else { failures + 1 };
            if failures == ATTEMPTS || is_final(&error) {
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(200 << failures));
        }
    }
    drop(file);
    let got = sha256_of(File::open(to)?)?;
    if got != package.sha256 {
        // It would be taken for a whole download the next time.
        std::fs::remove_file(to)?;
        let what = to.display().to_string();
        return Err(FetchError::Checksum { what, expected: package.sha256, got }.into());
    }
    Ok(())
}

/// A refusal that will be the same the next time.
fn is_final(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(ureq::Error::StatusCode(400..=407 | 410..=428)))
}

/// One request, for what comes after the first `have` bytes.
fn attempt(agent: &Agent, package: &Package, file: &mut File, have: u64, bar: &ProgressBar) -> Result<()> {
    let mut request = agent.get(package.url);
    if have > 0 {
        request = request.header(RANGE, format!("bytes={have}-"));
    }
    let response = request.call()?;
    let begins = match response.status() {
        StatusCode::PARTIAL_CONTENT => {
            let range = response.headers().get(CONTENT_RANGE).and_then(|r| r.to_str().ok());
            range.and_then(|r| r.strip_prefix("bytes ")?.split('-').next()?.parse().ok())
        }
        // Servers may ignore the range.
        _ => Some(0),
    };
    match begins {
        Some(0) => file.set_len(0)?,
        Some(at) if at == have => {}
        _ => bail!("the server sent another part of the file than was asked for"),
    }
    bar.set_position(file.metadata()?.len());
    append(response.into_body(), package.bytes, file, bar)
}

/// Appends what `body` gives until `file` has `bytes` bytes.
fn append(body: Body, bytes: u64, file: &mut File, bar: &ProgressBar) -> Result<()> {
    let left = bytes - file.metadata()?.len();
    let mut body = bar.wrap_read(body.into_reader().take(left));
    let written = io::copy(&mut body, file)?;
    file.flush()?;
    if written < left {
        bail!("the connection was cut off");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::BufRead;
    use std::net::TcpListener;
    use std::thread::JoinHandle;

    use super::*;

    /// Serves `contents` to as many requests as there are `limits`, each cut off after so many bytes; returns the ranges asked for.
    fn serve(
        contents: &'static [u8],
        limits: Vec<usize>,
        ranges: bool,
    ) -> (&'static str, JoinHandle<Vec<Option<usize>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/file", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let mut asked = Vec::new();
            for limit in limits {
                let (mut stream, _) = listener.accept().unwrap();
                let lines = io::BufReader::new(stream.try_clone().unwrap()).lines();
                let head: Vec<String> = lines.map(Result::unwrap).take_while(|l| !l.is_empty()).collect();
                let range = head.iter().find_map(|l| {
                    let l = l.to_lowercase();
                    l.strip_prefix("range: bytes=")?.strip_suffix('-')?.parse().ok()
                });
                asked.push(range);
                let from = if ranges { range.unwrap_or(0) } else { 0 };
                let (total, rest) = (contents.len(), &contents[from..]);
                let status = match from {
                    0 => "200 OK".to_owned(),
                    _ => format!("206 Partial Content\r\nContent-Range: bytes {from}-{}/{total}", total - 1),
                };
                let head = format!(
                    "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    rest.len()
                );
                stream.write_all(head.as_bytes()).unwrap();
                stream.write_all(&rest[..limit.min(rest.len())]).unwrap();
            }
            asked
        });
        (Box::leak(url.into_boxed_str()), server)
    }

    const CONTENTS: &[u8] = b"0123456789abcdef";

    fn package(url: &'static str) -> Package {
        let sha256 = Box::leak(sha256_of(CONTENTS).unwrap().into_boxed_str());
        Package { url, bytes: 16, sha256 }
    }

    #[test]
    fn a_download_that_was_cut_off_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("file");
        std::fs::write(&to, &CONTENTS[..3]).unwrap();
        let (url, server) = serve(CONTENTS, vec![5, 4, 100], true);
        resume(&package(url), &to, &ProgressBar::hidden()).unwrap();
        assert_eq!(std::fs::read(&to).unwrap(), CONTENTS);
        assert_eq!(server.join().unwrap(), [Some(3), Some(8), Some(12)]);
        // Nothing is left to ask for.
        resume(&package(url), &to, &ProgressBar::hidden()).unwrap();
    }

    #[test]
    fn a_server_without_ranges_starts_again() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("file");
        let (url, server) = serve(CONTENTS, vec![5, 100], false);
        resume(&package(url), &to, &ProgressBar::hidden()).unwrap();
        assert_eq!(std::fs::read(&to).unwrap(), CONTENTS);
        assert_eq!(server.join().unwrap(), [None, Some(5)]);
    }

    #[test]
    fn wrong_contents_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("file");
        let (url, server) = serve(b"0123456789abcdeX", vec![100], true);
        let error = resume(&package(url), &to, &ProgressBar::hidden()).unwrap_err();
        assert!(error.downcast_ref::<FetchError>().is_some(), "{error}");
        assert!(!to.exists());
        server.join().unwrap();
    }

    #[test]
    fn a_server_that_is_not_there_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/file", listener.local_addr().unwrap());
        drop(listener);
        let package = package(Box::leak(url.into_boxed_str()));
        assert!(resume(&package, &folder.path().join("file"), &ProgressBar::hidden()).is_err());
    }
}
