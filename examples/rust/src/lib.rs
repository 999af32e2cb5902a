//! How to reach a registry, and which of its errors are final.

use std::{env, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use tokio::{select, signal::unix, time};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status, codegen::InterceptedService, service::Interceptor, transport};
use v1::registry_client::RegistryClient;

pub mod v1 {
    tonic::include_proto!("luna.registry.v1");
}

pub type Registry = RegistryClient<InterceptedService<transport::Channel, Credentials>>;

/// Sends user and password with every call.
pub struct Credentials(String);

impl Interceptor for Credentials {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let header = self.0.parse().map_err(|_| Status::internal("base64 is always a header"))?;
        request.metadata_mut().insert("authorization", header);
        Ok(request)
    }
}

/// Returns a setting from the environment.
pub fn setting(name: &str, default: &str) -> String {
    env::var(name).unwrap_or_else(|_| default.to_owned())
}

/// Opens a connection of its own: one that is shared with other parts of a program may be the one that has just gone silent.
pub fn connect() -> Result<Registry, Status> {
    let address = setting("LUNA_ADDRESS", "127.0.0.1:50051");
    let channel = transport::Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| Status::invalid_argument(format!("LUNA_ADDRESS: {error}")))?
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(5))
        .connect_lazy();
    let user = setting("LUNA_AUTH_USERNAME", "admin") + ":" + &setting("LUNA_AUTH_PASSWORD", "");
    let credentials = Credentials(format!("Basic {}", BASE64_STANDARD.encode(user)));
    Ok(RegistryClient::with_interceptor(channel, credentials))
}

/// Waits for an answer, though not for ever: a connection may have gone silent.
pub async fn within<T>(limit: Duration, answer: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    time::timeout(limit, answer).await.unwrap_or_else(|_| Err(silent()))
}

pub fn silent() -> Status {
    Status::deadline_exceeded("the registry is silent")
}

/// Returns what to tell people about an error that the next try would meet again; nothing for any other error.
pub fn refusal(error: &Status) -> Option<String> {
    let text = match error.code() {
        Code::Unauthenticated => "wrong credentials: check LUNA_AUTH_USERNAME and LUNA_AUTH_PASSWORD",
        Code::PermissionDenied => "not allowed",
        Code::InvalidArgument => "not accepted",
        Code::AlreadyExists | Code::FailedPrecondition => "another registration has taken over",
        _ => return None,
    };
    Some(format!("{text} ({})", error.message()))
}

/// Waits before another try; with full jitter, or else all clients of a registry would come back to it at the same moment.
pub async fn pause(attempts: &mut u32, longest: Duration, stop: &CancellationToken) {
    let most = longest.min(Duration::from_millis(500) * 2_u32.pow(*attempts.min(&mut 10)));
    *attempts += 1;
    select! {
        () = time::sleep(most.mul_f64(fastrand::f64())) => {}
        () = stop.cancelled() => {}
    }
}

/// Returns what is cancelled on SIGTERM or Ctrl-C.
pub fn stopped_by_signals() -> std::io::Result<CancellationToken> {
    let stop = CancellationToken::new();
    for kind in [unix::SignalKind::terminate(), unix::SignalKind::interrupt()] {
        let (mut signals, stop) = (unix::signal(kind)?, stop.clone());
        tokio::spawn(async move {
            signals.recv().await;
            stop.cancel();
        });
    }
    Ok(stop)
}
