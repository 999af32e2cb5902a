//! Prints the changes of a service, until SIGTERM or Ctrl-C.

use std::{collections::HashMap, collections::HashSet, env, error::Error, process, time::Duration};

use luna_examples::{connect, pause, refusal, stopped_by_signals, v1};
use tokio::select;
use tonic::Status;

#[derive(Default)]
struct Watcher {
    name: String,
    token: String,                   // where to go on
    known: HashMap<String, String>,  // what was printed of each instance
    unseen: Option<HashSet<String>>, // what a snapshot has not named yet, while one is under way
    attempts: u32,                   // since the last message
}

impl Watcher {
    /// Goes on from the last token, until the stream ends.
    async fn watch(&mut self) -> Result<(), Status> {
        let request = v1::WatchServicesRequest { names: vec![self.name.clone()], resume_token: self.token.clone() };
        let mut messages = connect()?.watch_services(request).await?.into_inner();
        self.unseen = None;
        while let Some(message) = messages.message().await? {
            self.attempts = 0;
            self.apply(message);
        }
        Ok(())
    }

    fn apply(&mut self, message: v1::WatchServicesResponse) {
        if message.reset {
            self.unseen = Some(self.known.keys().cloned().collect());
        }
        for event in message.events {
            let removed = event.r#type() == v1::EventType::Removed;
            let instance = event.instance.unwrap_or_default();
            if removed { self.forget(&instance.instance_id) } else { self.show(instance) }
        }
        if message.synced {
            let how = if self.unseen.is_some() { "from the beginning" } else { "from where it was" };
            for id in self.unseen.take().unwrap_or_default() {
                self.forget(&id); // it left while nobody told us
            }
            eprintln!("in step, {how}");
        }
        if !message.resume_token.is_empty() {
            self.token = message.resume_token;
        }
    }

    fn show(&mut self, instance: v1::Instance) {
        if let Some(unseen) = &mut self.unseen {
            unseen.remove(&instance.instance_id);
        }
        let shown = format!("{} {}", instance.status().as_str_name().trim_start_matches("STATUS_"), instance.url);
        let before = self.known.insert(instance.instance_id.clone(), shown.clone());
        if before.as_ref() != Some(&shown) {
            println!("{} {shown}", instance.instance_id);
        }
    }

    fn forget(&mut self, id: &str) {
        if let Some(unseen) = &mut self.unseen {
            unseen.remove(id);
        }
        if self.known.remove(id).is_some() {
            println!("{id} gone");
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let Some(name) = env::args().nth(1) else { return Err("usage: watch SERVICE".into()) };
    let mut watcher = Watcher { name, ..Default::default() };
    let stop = stopped_by_signals()?;
    while !stop.is_cancelled() {
        let ended = select! {
            ended = watcher.watch() => ended,
            () = stop.cancelled() => break,
        };
        if let Err(error) = ended {
            if let Some(text) = refusal(&error) {
                eprintln!("{text}");
                process::exit(1);
            }
            eprintln!("{}; trying again", error.message());
        }
        pause(&mut watcher.attempts, Duration::from_secs(10), &stop).await;
    }
    Ok(())
}
