//! The page of a run on this machine alone, as it is at the moment.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::error::{Error, Result};
use crate::report::html::page;
use crate::report::request::{Asked, asked};
use crate::report::run::Run;
use crate::stop::{LOOK_EVERY, Stop};

/// Bytes of a request's head.
const LONGEST: usize = 16 << 10;
/// How long a request may take to arrive, or an answer to be taken.
const PATIENCE: Duration = Duration::from_secs(5);
/// Requests at once.
const AT_ONCE: usize = 16;
/// What browsers are told of every answer: nothing of it is kept, framed, guessed or joined with anything of others.
const HEADERS: &str = "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nX-Frame-Options: DENY\r\n\
    Referrer-Policy: no-referrer\r\nCross-Origin-Resource-Policy: same-origin\r\nContent-Security-Policy: default-src 'none'; \
    script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; connect-src 'self'; base-uri 'none'; \
    form-action 'none'\r\nConnection: close\r\n";

/// A port of this machine that is listened at.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    port: u16,
}

impl Server {
    /// Listens at a port of 127.0.0.1; 0 takes any that is free. One that is taken is an error.
    pub fn open(port: u16) -> Result<Self> {
        let failed = |e: std::io::Error| {
            Error::Usage(match e.kind() {
                ErrorKind::AddrInUse => {
                    format!(
                        "--port {port} is taken by another program; give another one, or 0 for any that is free"
                    )
                }
                ErrorKind::PermissionDenied => {
                    format!(
                        "--port {port} may not be used ({e}); give one of 1024 or more, or 0 for any that is free"
                    )
                }
                _ => format!("--port {port} cannot be listened at: {e}"),
            })
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        Ok(Self { listener, port })
    }

    /// Where the page is.
    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }
}

/// Answers requests until `stop` wishes for the end.
pub fn serve(server: &Server, run: Run, stop: &Stop) -> Result<()> {
    let (run, busy) = (Mutex::new(run), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        while stop.asked().is_none() {
            let Ok((stream, _)) = server.listener.accept() else {
                // there is none, or one has gone again
                std::thread::sleep(LOOK_EVERY);
                continue;
            };
            if busy.fetch_add(1, Ordering::Relaxed) >= AT_ONCE {
                busy.fetch_sub(1, Ordering::Relaxed);
                continue;
            }
            let (run, busy) = (&run, &busy);
            let answer = move || {
                // a browser that goes away is no matter
                let _ = answer(stream, run, server.port, stop);
                busy.fetch_sub(1, Ordering::Relaxed);
            };
            if std::thread::Builder::new().name("page".into()).spawn_scoped(scope, answer).is_err() {
                busy.fetch_sub(1, Ordering::Relaxed);
            }
        }
        Ok(())
    })
}

fn answer(mut stream: TcpStream, run: &Mutex<Run>, port: u16, stop: &Stop) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(LOOK_EVERY))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let asked = head(&mut stream, port, stop)?;
    let (status, kind, body) = match asked {
        Asked::Refused(status, why) => (format!("{status} {why}"), "text/plain", format!("{why}\n")),
        Asked::Page | Asked::News(..) => {
            let mut run = run.lock().unwrap_or_else(PoisonError::into_inner);
            run.read();
            match asked {
                Asked::News(generation, points) => {
                    ("200 OK".into(), "application/json", run.since((generation, points)).to_string())
                }
                _ => {
                    let mut data = run.to_json(Vec::new());
                    data["live"] = json!(true);
                    let title = format!("{} · poa-gpu", data["head"]["name"].as_str().unwrap_or_default());
                    ("200 OK".into(), "text/html", page(&title, &data))
                }
            }
        }
    };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}; charset=utf-8\r\nContent-Length: {length}\r\n{HEADERS}\r\n"
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    stream.flush()
}

/// Reads the head of a request.
fn head(stream: &mut TcpStream, port: u16, stop: &Stop) -> std::io::Result<Asked> {
    let (mut bytes, mut part, begun) = (Vec::new(), [0; 2048], Instant::now());
    loop {
        match stream.read(&mut part) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(read) => bytes.extend_from_slice(&part[..read]),
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) => {}
            Err(e) => return Err(e),
        }
        if let Some(asked) = asked(&bytes, port) {
            return Ok(asked);
        }
        if bytes.len() > LONGEST {
            return Ok(Asked::Refused(431, "Request Header Fields Too Large"));
        }
        if begun.elapsed() > PATIENCE || stop.asked().is_some() {
            return Ok(Asked::Refused(408, "Request Timeout"));
        }
    }
}
