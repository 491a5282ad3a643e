//! The admin port: metrics, probes and status over HTTP.
//!
//! It runs on a thread of its own, with a runtime of its own, so that a busy or
//! stuck supervisor cannot silence it: `/livez` has to tell exactly then.
//!
//! | path | answer |
//! |---|---|
//! | `/metrics` | all series, in the text format of Prometheus |
//! | `/livez` | 200 while the supervisor's heartbeat is younger than [`LIVE_WITHIN`], else 503: restart the process. Says nothing of databases or streams, which a restart does not mend |
//! | `/readyz` | 200 once started, 503 before that and while draining, with the state of the databases either way |
//! | `/api/status` | the whole status board as JSON |
//! | `/api/shards` | the shards of each stream: hash keys, use of their budget, queues; with `?keys=N` their hottest keys too, which may be secrets of the application |
//! | `/api/config` | the settings and definitions that the relay runs by, as JSON, with marks for secrets; 503 before it has begun |
//! | `/api/history` | the rows that each pipeline delivered a second, of the last five minutes; with `?after=N` what came after look N |
//! | `/` | the status page (`page`), which is made of `/page/...` |
//! | `/runbooks/NAME` | what to do about an alert; `/runbooks/` lists them |
//!
//! Only GET is answered, and no answer changes anything. There is no authentication: the default address is
//! reachable from the machine itself alone.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::http::header;
use actix_web::middleware::DefaultHeaders;
use actix_web::{App, HttpResponse, HttpServer, web};

use super::history::{self, History};
use super::metrics::Metrics;
use super::page;
use super::runbooks;
use super::shards;
use super::status::{Phase, StatusBoard};

/// How old the supervisor's heartbeat may be in a live process.
pub const LIVE_WITHIN: Duration = Duration::from_secs(10);

/// The content type that Prometheus expects.
const METRICS_CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Why there is no admin port.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The address cannot be listened on.
    #[error(
        "admin.listen: cannot listen on {listen}: {source}; \
         set another address or port (TIDEGATE__ADMIN__LISTEN)"
    )]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The server's thread could not be started, or ended at once.
    #[error("the admin port's thread did not start: {0}")]
    Thread(String),
}

/// A running admin port. It stops when it is dropped.
#[derive(Debug)]
pub struct AdminServer {
    local_addr: SocketAddr,
    handle: ServerHandle,
    thread: Option<JoinHandle<()>>,
}

/// What handlers answer from.
#[derive(Debug)]
struct Shared {
    metrics: Metrics,
    board: Arc<StatusBoard>,
    history: History,
}

/// Starts the admin port.
///
/// # Errors
/// The address is taken or not ours, or no thread can be had.
pub fn start(
    listen: SocketAddr,
    metrics: Metrics,
    board: Arc<StatusBoard>,
) -> Result<AdminServer, AdminError> {
    let not_listening = |source| AdminError::Listen { listen, source };
    let listener = TcpListener::bind(listen).map_err(not_listening)?;
    let local_addr = listener.local_addr().map_err(not_listening)?;
    let shared = web::Data::new(Shared {
        metrics,
        board,
        history: History::default(),
    });
    let (started, when_started) = mpsc::channel();
    let thread = std::thread::Builder::new()
        .name("admin".to_owned())
        .spawn(move || actix_rt::System::new().block_on(serve(listener, shared, started)))
        .map_err(|error| AdminError::Thread(error.to_string()))?;
    let ended = |_| AdminError::Thread("it ended at once".to_owned());
    let handle = when_started.recv().map_err(ended)?;
    let handle = handle.map_err(|error: std::io::Error| AdminError::Thread(error.to_string()))?;
    Ok(AdminServer {
        local_addr,
        handle,
        thread: Some(thread),
    })
}

async fn serve(
    listener: TcpListener,
    shared: web::Data<Shared>,
    started: mpsc::Sender<std::io::Result<ServerHandle>>,
) {
    let kept = shared.clone();
    actix_rt::spawn(async move { kept.history.keep(&kept.board).await });
    let app = move || {
        App::new()
            .app_data(shared.clone())
            .wrap(headers())
            .configure(page::configure)
            .configure(runbooks::configure)
            .service(web::resource("/metrics").get(metrics))
            .service(web::resource("/livez").get(livez))
            .service(web::resource("/readyz").get(readyz))
            .service(web::resource("/api/status").get(status))
            .service(web::resource("/api/shards").get(shards))
            .service(web::resource("/api/history").get(history))
            .service(web::resource("/api/config").get(config))
    };
    let server = HttpServer::new(app)
        .workers(1)
        .max_connections(256)
        .shutdown_timeout(1)
        .disable_signals()
        .listen(listener);
    let server = match server {
        Ok(server) => server.run(),
        Err(error) => return drop(started.send(Err(error))),
    };
    // Whoever waits for the handle has nothing else to do; if it is gone all the
    // same, nobody wants the server.
    if started.send(Ok(server.handle())).is_err() {
        return;
    }
    if let Err(error) = server.await {
        tracing::error!(%error, "the admin port failed");
    }
}

/// What every answer says to browsers: it is of this moment, is what it says it is, and
/// is for pages of this server.
fn headers() -> DefaultHeaders {
    DefaultHeaders::new()
        .add((header::CACHE_CONTROL, "no-store"))
        .add((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .add((header::REFERRER_POLICY, "no-referrer"))
        .add(("cross-origin-resource-policy", "same-origin"))
}

// === Handlers ===

async fn metrics(shared: web::Data<Shared>) -> HttpResponse {
    match shared.metrics.render() {
        Ok(text) => HttpResponse::Ok()
            .content_type(METRICS_CONTENT_TYPE)
            .body(text),
        Err(error) => HttpResponse::InternalServerError().body(error.to_string()),
    }
}

async fn livez(shared: web::Data<Shared>) -> HttpResponse {
    let age = shared.board.heartbeat_age();
    let body = serde_json::json!({
        "live": age < LIVE_WITHIN,
        "heartbeat_age_seconds": age.as_secs_f64(),
    });
    let mut response = if age < LIVE_WITHIN {
        HttpResponse::Ok()
    } else {
        HttpResponse::ServiceUnavailable()
    };
    response.json(body)
}

async fn readyz(shared: web::Data<Shared>) -> HttpResponse {
    let phase = shared.board.phase();
    let body = serde_json::json!({
        "phase": phase,
        "databases": shared.board.databases(),
    });
    let mut response = match phase {
        Phase::Started => HttpResponse::Ok(),
        Phase::Starting | Phase::Draining => HttpResponse::ServiceUnavailable(),
    };
    response.json(body)
}

async fn status(shared: web::Data<Shared>) -> HttpResponse {
    HttpResponse::Ok().json(shared.board.status())
}

async fn shards(
    shared: web::Data<Shared>,
    asked: web::Query<BTreeMap<String, String>>,
) -> HttpResponse {
    match shards::most_keys(&asked) {
        Ok(keys) => HttpResponse::Ok().json(shards::shown(&shared.board.status(), keys)),
        Err(reason) => HttpResponse::BadRequest().body(reason),
    }
}

async fn history(
    shared: web::Data<Shared>,
    asked: web::Query<BTreeMap<String, String>>,
) -> HttpResponse {
    match history::after(&asked) {
        Ok(after) => HttpResponse::Ok().json(shared.history.shown(after)),
        Err(reason) => HttpResponse::BadRequest().body(reason),
    }
}

async fn config(shared: web::Data<Shared>) -> HttpResponse {
    match shared.board.loaded() {
        Some(loaded) => HttpResponse::Ok().json(loaded.shown()),
        None => HttpResponse::ServiceUnavailable().finish(),
    }
}

// === impl AdminServer ===

impl AdminServer {
    /// Where it listens: the port that was chosen, when port 0 was asked for.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Stops it and waits until its thread has ended. Requests that are being
    /// answered are cut off.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for AdminServer {
    fn drop(&mut self) {
        // The call sends the command; its future would only wait for the end,
        // as the thread's end does.
        drop(self.handle.stop(false));
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!("the admin port's thread panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use tokio::time::Instant;

    fn board() -> Arc<StatusBoard> {
        Arc::new(StatusBoard::new("node-a".into()))
    }

    fn server(board: &Arc<StatusBoard>) -> AdminServer {
        let metrics = Metrics::new(prometheus::Registry::new()).expect("fresh names");
        metrics.pipeline(["d", "p", "t", "s"]).delivered(3, 300);
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        start(any_port, metrics, board.clone()).expect("started")
    }

    /// The whole answer to a request.
    fn ask(server: &AdminServer, method: &str, path: &str) -> String {
        let mut stream = TcpStream::connect(server.local_addr()).expect("connected");
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        )
        .expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        answer
    }

    #[track_caller]
    fn answers(server: &AdminServer, path: &str, status: u16, parts: &[&str]) {
        let answer = ask(server, "GET", path);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        for part in parts {
            assert!(answer.contains(part), "no {part} in {answer}");
        }
    }

    #[test]
    fn answers_every_path() {
        let board = board();
        let server = server(&board);
        answers(
            &server,
            "/metrics",
            200,
            &[METRICS_CONTENT_TYPE, "tidegate_rows_delivered_total{"],
        );
        answers(&server, "/", 200, &["text/html", page::POLICY, "nosniff"]);
        answers(&server, "/page/main.js", 200, &["text/javascript"]);
        answers(&server, "/runbooks/", 200, &["\"TidegateThrottled\""]);
        answers(&server, "/runbooks/TidegateThrottled", 200, &[page::POLICY]);
        answers(&server, "/runbooks/..%2Fsecrets", 404, &[]);
        answers(
            &server,
            "/api/history",
            200,
            &["\"pipelines\":[]", "\"points\":60"],
        );
        answers(&server, "/api/history?after=x", 400, &["expected a number"]);
        answers(
            &server,
            "/api/status",
            200,
            &["application/json", "\"node\":\"node-a\""],
        );
        answers(&server, "/livez", 200, &["\"live\":true"]);
        answers(&server, "/nowhere", 404, &[]);
        let posted = ask(&server, "POST", "/metrics");
        assert!(posted.starts_with("HTTP/1.1 405 "), "{posted}");
    }

    #[test]
    fn is_ready_between_start_and_drain() {
        let board = board();
        let server = server(&board);
        answers(&server, "/readyz", 503, &["\"phase\":\"starting\""]);
        board.set_phase(Phase::Started);
        board.set_database(&"default".into(), Some("connection refused".to_owned()));
        answers(
            &server,
            "/readyz",
            200,
            &[
                "\"phase\":\"started\"",
                "\"up\":false",
                "connection refused",
            ],
        );
        board.set_phase(Phase::Draining);
        answers(&server, "/readyz", 503, &["\"phase\":\"draining\""]);
    }

    #[test]
    fn is_not_live_without_a_heartbeat() {
        let long_ago = Instant::now().checked_sub(LIVE_WITHIN).expect("a time");
        let board = Arc::new(StatusBoard::made_at(long_ago, "node-a".into()));
        let server = server(&board);
        answers(
            &server,
            "/livez",
            503,
            &["\"live\":false", "\"heartbeat_age_seconds\":10."],
        );
        board.beat();
        answers(&server, "/livez", 200, &["\"live\":true"]);
    }

    #[test]
    fn a_taken_port_is_named_with_its_key() {
        let board = board();
        let first = server(&board);
        let metrics = Metrics::new(prometheus::Registry::new()).expect("fresh names");
        let error = start(first.local_addr(), metrics, board)
            .expect_err("taken")
            .to_string();
        assert!(
            error.starts_with("admin.listen: cannot listen on 127.0.0.1:"),
            "{error}"
        );
    }

    #[test]
    fn stopping_frees_the_port() {
        let board = board();
        let first = server(&board);
        let address = first.local_addr();
        first.stop();
        TcpListener::bind(address).expect("the port is free");
    }
}
