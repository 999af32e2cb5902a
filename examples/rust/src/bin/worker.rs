//! A worker that keeps itself registered with Luna over gRPC, from its start until SIGTERM or Ctrl-C.
//! What it says of its health is the last line of its standard input: OK or DOWN.

use std::{error::Error, io, thread, time::Duration};

use luna_examples::{Registry, connect, pause, refusal, setting, silent, stopped_by_signals, v1, within};
use tokio::{select, sync::mpsc, time};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

const PATIENCE: Duration = Duration::from_secs(5);

struct Worker {
    id: String,
    owner: String, // with it this process gets its own registration back, and no one else's
    health: v1::Status,
    said: mpsc::UnboundedReceiver<v1::Status>, // what health is to become
    stop: CancellationToken,
    generation: u64, // of the registration that we hold; 0: none
    epoch: String,
    interval: Duration,
    attempts: u32, // since the last answer
}

impl Worker {
    /// Registers and sends heartbeats until told to stop, then deregisters. A registry that is away is waited for.
    async fn run(&mut self) -> Result<(), String> {
        while !self.stop.is_cancelled() {
            if let Err(error) = self.session().await {
                if let Some(text) = refusal(&error) {
                    return Err(text);
                }
                eprintln!("{}; trying again", error.message());
            }
            pause(&mut self.attempts, self.interval, &self.stop).await;
        }
        if self.generation != 0 {
            match self.deregister().await {
                Ok(()) => println!("deregistered {}", self.id),
                Err(error) => eprintln!("not deregistered, the lease will run out: {}", error.message()),
            }
        }
        Ok(())
    }

    /// Works over one connection until there is a reason to register again, to open another stream, or to stop.
    async fn session(&mut self) -> Result<(), Status> {
        let mut registry = connect()?;
        if self.generation == 0 {
            self.register(&mut registry).await?;
        }
        self.beat(&mut registry).await
    }

    async fn register(&mut self, registry: &mut Registry) -> Result<(), Status> {
        let request = v1::RegisterRequest {
            instance: Some(v1::Instance {
                instance_id: self.id.clone(),
                version: "1.0.0".to_owned(),
                status: self.health.into(),
                ..Default::default()
            }),
            // At our start, whoever has the id is most likely our own earlier run, and is replaced. Later on it is our successor.
            replace: self.epoch.is_empty(),
            owner: self.owner.clone(),
        };
        let answer = within(PATIENCE, registry.register(request)).await?.into_inner();
        self.generation = answer.instance.unwrap_or_default().generation;
        self.learn(answer.lease.unwrap_or_default());
        println!("registered {}", self.id);
        Ok(())
    }

    fn learn(&mut self, lease: v1::Lease) {
        let told = lease.heartbeat_interval.unwrap_or_default();
        self.interval = told.try_into().unwrap_or(self.interval);
        self.epoch = lease.epoch;
        self.attempts = 0;
    }

    async fn beat(&mut self, registry: &mut Registry) -> Result<(), Status> {
        let (requests, outgoing) = mpsc::channel(8);
        let mut requests = Some(requests); // once it is dropped, the stream is half-closed, and the registry says its last word
        send(&requests, self.health_report());
        let opened = registry.stream_heartbeats(ReceiverStream::new(outgoing));
        let mut answers = within(self.interval, opened).await?.into_inner();
        let mut next = time::interval_at(time::Instant::now() + self.interval, self.interval);
        let mut silence = Box::pin(time::sleep(self.interval));
        loop {
            select! {
                answer = answers.message() => {
                    let Some(answer) = answer? else { return Ok(()) };
                    if self.is_over(answer)? {
                        requests = None;
                    }
                    // One interval until the next heartbeat, and one for its answer.
                    silence.as_mut().reset(time::Instant::now() + 2 * self.interval);
                }
                () = &mut silence => return Err(silent()),
                _ = next.tick() => send(&requests, v1::StreamHeartbeatsRequest {
                    instance_ids: vec![self.id.clone()],
                    ..Default::default()
                }),
                Some(health) = self.said.recv() => {
                    self.health = health;
                    send(&requests, self.health_report());
                }
                () = self.stop.cancelled(), if requests.is_some() => requests = None,
            }
        }
    }

    /// Names our generation, so that the stream renews no other.
    fn health_report(&self) -> v1::StreamHeartbeatsRequest {
        let heartbeat = v1::HeartbeatRequest {
            instance_id: self.id.clone(),
            generation: self.generation,
            status: Some(self.health.into()),
            ..Default::default()
        };
        v1::StreamHeartbeatsRequest { heartbeats: vec![heartbeat], ..Default::default() }
    }

    /// Tells whether a stream has served its time, because of what the registry says.
    fn is_over(&mut self, answer: v1::StreamHeartbeatsResponse) -> Result<bool, Status> {
        let lease = answer.lease.unwrap_or_default();
        let mut forgotten = lease.epoch != self.epoch; // the registry was started anew
        for failure in answer.failures {
            let error = Status::new(Code::from(failure.code), failure.message);
            if refusal(&error).is_some() {
                return Err(error);
            }
            forgotten |= error.code() == Code::NotFound;
        }
        if forgotten {
            self.generation = 0;
        }
        self.learn(lease);
        Ok(forgotten || answer.reconnect)
    }

    async fn deregister(&self) -> Result<(), Status> {
        let request = v1::DeregisterRequest { instance_id: self.id.clone(), generation: self.generation };
        within(PATIENCE, connect()?.deregister(request)).await.map(|_| ())
    }
}

fn send(requests: &Option<mpsc::Sender<v1::StreamHeartbeatsRequest>>, request: v1::StreamHeartbeatsRequest) {
    if let Some(requests) = requests {
        let _ = requests.try_send(request); // a stream that takes nothing more is about to be silent
    }
}

/// Passes on what is said on the standard input.
fn listen(said: mpsc::UnboundedSender<v1::Status>) {
    for line in io::stdin().lines().map_while(Result::ok) {
        if let Some(health) = v1::Status::from_str_name(&format!("STATUS_{line}")) {
            let _ = said.send(health);
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let (saying, said) = mpsc::unbounded_channel();
    thread::spawn(|| listen(saying));
    let mut worker = Worker {
        id: setting("INSTANCE_ID", "orders-rust:localhost:8080"),
        owner: uuid::Uuid::new_v4().to_string(),
        health: v1::Status::Ok,
        said,
        stop: stopped_by_signals()?,
        generation: 0,
        epoch: String::new(),
        interval: Duration::from_secs(10), // until the registry names another
        attempts: 0,
    };
    if let Err(text) = worker.run().await {
        eprintln!("{text}");
        std::process::exit(1);
    }
    Ok(())
}
