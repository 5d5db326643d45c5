//! Does the release work? Asked again and again until it does or the time is over.

use std::path::Path;
use std::time::Duration;

use coord_proto::chain::inline;
use coord_proto::manifest::Health;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::command::{self, CommandOutcome, CommandSpec};
use super::environment::HookContext;
use super::hook;
use crate::config::AppPlace;
use crate::layout::AppDir;

const INTERVAL: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(30);
/// One question may take this long.
const QUESTION_MAX: Duration = Duration::from_secs(10);

/// Why the release counts as unhealthy: the last answer, and how long it was asked.
#[derive(Debug, thiserror::Error)]
#[error("not healthy within {}: {last_answer}", humantime::format_duration(*asked_for))]
pub struct Unhealthy {
    pub asked_for: Duration,
    pub last_answer: String,
}

/// Asks until the first good answer.
///
/// # Errors
/// The last answer, when the check's timeout has passed.
pub async fn probe(check: &Health, context: &HookContext, place: &AppPlace, logs: &Path) -> Result<(), Unhealthy> {
    let asked_for = check.timeout.unwrap_or(TIMEOUT);
    let interval = check.interval.unwrap_or(INTERVAL);
    let deadline = Instant::now() + asked_for;
    let mut last_answer = "no answer in time".to_owned();
    loop {
        let left = deadline.saturating_duration_since(Instant::now()).min(QUESTION_MAX);
        match ask(check, left, context, place, logs).await {
            Ok(()) => return Ok(()),
            // A question that our own deadline cut short says nothing about the app.
            Err(Answer::None) => {}
            Err(Answer::Bad(words)) => last_answer = words,
        }
        if Instant::now() + interval >= deadline {
            return Err(Unhealthy { asked_for, last_answer });
        }
        sleep(interval).await;
    }
}

/// Why a question was not answered well.
enum Answer {
    None,
    Bad(String),
}

async fn ask(check: &Health, left: Duration, context: &HookContext, place: &AppPlace, logs: &Path) -> Result<(), Answer> {
    if let Some(url) = &check.http {
        timeout(left, ask_http(url)).await.map_err(|_| Answer::None)?.map_err(Answer::Bad)?;
    }
    if let Some(address) = &check.tcp {
        let connected = timeout(left, TcpStream::connect(address.as_str())).await.map_err(|_| Answer::None)?;
        connected.map_err(|e| Answer::Bad(format!("{address}: {e}")))?;
    }
    if !check.command.is_empty() {
        ask_command(check, left, context, place, logs).await?;
    }
    Ok(())
}

async fn ask_http(url: &str) -> Result<(), String> {
    let response = client(url).map_err(|e| inline(&e))?.get(url).send().await.map_err(|e| inline(&e.without_url()))?;
    let status = response.status();
    let location = response.headers().get(reqwest::header::LOCATION).and_then(|l| l.to_str().ok());
    match location.filter(|_| status.is_redirection()) {
        _ if status.is_success() => Ok(()),
        Some(to) => Err(format!("the answer was {status} to {to}, which is not followed")),
        None => Err(format!("the answer was {status}")),
    }
}

/// One for each question: a kept connection would reach the old process of a restarted app. It follows no redirect:
/// another page's health would be reported.
fn client(url: &str) -> reqwest::Result<reqwest::Client> {
    let mut builder = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).pool_max_idle_per_host(0);
    if url.starts_with("http://") {
        // Nothing to check a certificate against is loaded: it takes time, and a small server may have none.
        builder = builder.tls_certs_only([]);
    }
    builder.build()
}

/// The command has the deadline itself: a dropped future would leave its children behind.
async fn ask_command(check: &Health, left: Duration, context: &HookContext, place: &AppPlace, logs: &Path) -> Result<(), Answer> {
    let bad = |e: &(dyn std::error::Error + 'static)| Answer::Bad(inline(e));
    let (environment, user) = hook::surroundings(context.clone(), None, place.clone()).await.map_err(|e| bad(&e))?;
    let spec = CommandSpec {
        argv: check.command.clone(),
        cwd: AppDir::new(context.app_dir.clone()).release(&context.release),
        env: environment.vars,
        redact: environment.secrets,
        user,
        deadline: left,
        log_file: logs.join(format!("{}.health.log", context.release)),
        cancel: CancellationToken::new(),
    };
    let end = command::run(spec).await.map_err(|e| bad(&e))?;
    match end.outcome {
        CommandOutcome::Exited(0) => Ok(()),
        CommandOutcome::TimedOut => Err(Answer::None),
        CommandOutcome::Exited(status) => Err(Answer::Bad(last_words(&format!("exit status {status}"), &end.log_tail))),
        CommandOutcome::Signaled(signal) => Err(Answer::Bad(last_words(&format!("signal {signal}"), &end.log_tail))),
        CommandOutcome::Cancelled => Err(Answer::None),
    }
}

/// How the command ended, with the last line that it printed.
fn last_words(how: &str, log_tail: &str) -> String {
    match log_tail.lines().rev().find(|l| !l.trim().is_empty()) {
        Some(line) => format!("{how}: {}", line.trim()),
        None => how.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    fn context(dir: &Path) -> HookContext {
        std::fs::create_dir_all(dir.join("releases/r")).expect("release");
        HookContext {
            app: "a".parse().expect("app"),
            release: "r".parse().expect("release"),
            app_dir: dir.into(),
            previous: None,
            node: "n".parse().expect("node"),
            rollout: None,
            phase: "health".into(),
            attempt: 1,
            fence: None,
            env: [].into(),
            env_file: None,
            search_path: "/usr/bin:/bin".into(),
            user: None,
        }
    }

    async fn answer(listener: &TcpListener, status: &str) {
        let (mut stream, _) = listener.accept().await.expect("a question");
        let mut buffer = [0; 1024];
        let _ = stream.read(&mut buffer).await;
        let text = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        stream.write_all(text.as_bytes()).await.expect("answered");
    }

    #[tokio::test]
    async fn asked_again_until_the_answer_is_good() {
        coord_proto::tls::install_provider();
        let dir = tempfile::tempdir().expect("dir");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
        let url = format!("http://{}/healthz", listener.local_addr().expect("address"));
        let check = Health {
            http: Some(url),
            interval: Some(Duration::from_millis(10)),
            timeout: Some(Duration::from_secs(10)),
            ..Health::default()
        };
        let (context, place) = (context(dir.path()), AppPlace::default());
        let serve = async {
            answer(&listener, "503 Starting").await;
            answer(&listener, "302 Elsewhere").await;
            answer(&listener, "200 OK").await;
        };
        let (healthy, ()) = tokio::join!(probe(&check, &context, &place, dir.path()), serve);
        healthy.expect("the third answer is good");
    }

    #[tokio::test]
    async fn the_last_answer_is_told() {
        let dir = tempfile::tempdir().expect("dir");
        let command = ["sh", "-c", "echo database away; exit 1"].map(str::to_owned).to_vec();
        let times = (Some(Duration::from_millis(20)), Some(Duration::from_secs(3)));
        let check = Health { command, interval: times.0, timeout: times.1, ..Health::default() };
        let error = probe(&check, &context(dir.path()), &AppPlace::default(), dir.path()).await.expect_err("never healthy");
        assert!(error.last_answer.contains("database away"), "{error}");
    }

    #[tokio::test]
    async fn a_port_that_refuses_is_not_healthy() {
        let dir = tempfile::tempdir().expect("dir");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
        let address = listener.local_addr().expect("address").to_string();
        let check = Health {
            tcp: Some(address),
            interval: Some(Duration::from_millis(10)),
            timeout: Some(Duration::from_millis(50)),
            ..Health::default()
        };
        probe(&check, &context(dir.path()), &AppPlace::default(), dir.path()).await.expect("it listens");
        drop(listener);
        probe(&check, &context(dir.path()), &AppPlace::default(), dir.path()).await.expect_err("it is gone");
    }
}
