//! A use case that writes down each event as an effect, replies to those named `ask…`, and meets
//! the fate that the test has set for an event.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use async_trait::async_trait;
use gozon_contract::Timestamp;
use gozon_messaging::{Decision, Failure, Mode, Outgoing, Received, UseCase};
use gozon_store::{Error, Reader, Rows, Statement, select};

use crate::service::{event, id};

/// Clones are the same use case. It panics when it is told that a reply to `ask-loud…` is committed.
#[derive(Clone, Default)]
pub(crate) struct FakeUseCase(Arc<State>);

#[derive(Default)]
struct State {
    fates: Mutex<HashMap<String, (Fate, u32)>>,
    calls: Mutex<Vec<(usize, Mode)>>,
    seen: Mutex<Vec<String>>,
    committed: Arc<Mutex<Vec<String>>>,
    guarded: AtomicBool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Fate {
    Fails,
    Panics,
    MeetsConflict,
    /// Somebody holds a row that it needs.
    MeetsLock,
    /// Its database is away.
    IsAway,
    /// Its effect is refused by the commit.
    BreaksCommit,
    /// It can't read, and makes nothing of it.
    SwallowsError,
}

impl FakeUseCase {
    /// The next `times` times that the event with this name is dealt with, it meets `fate`.
    pub(crate) fn will(&self, name: &str, fate: Fate, times: u32) {
        self.0.fates.lock().unwrap().insert(name.to_owned(), (fate, times));
    }

    /// From now on an event that was dealt with has no second effect, however it comes.
    pub(crate) fn guards_its_effect(&self) {
        self.0.guarded.store(true, Relaxed);
    }

    /// How many events it was called with since the last time, and in which mode, call by call.
    pub(crate) fn calls(&self) -> Vec<(usize, Mode)> {
        std::mem::take(&mut self.0.calls.lock().unwrap())
    }

    /// The names of the events that it was called with since the last time.
    pub(crate) fn seen(&self) -> Vec<String> {
        std::mem::take(&mut self.0.seen.lock().unwrap())
    }

    /// The ids of the replies that it was told are committed since the last time.
    pub(crate) fn committed(&self) -> Vec<String> {
        std::mem::take(&mut self.0.committed.lock().unwrap())
    }

    fn fate_of(&self, name: &str) -> Option<Fate> {
        let mut fates = self.0.fates.lock().unwrap();
        let (fate, times) = fates.get_mut(name)?;
        *times = times.checked_sub(1)?;
        Some(*fate)
    }
}

/// What an event that is to have an effect writes: its id, and a parent that is there or not.
type Effect = (String, i64);

#[async_trait]
impl UseCase for FakeUseCase {
    type Command = Received<String>;
    type Reply = ();

    async fn decide(
        &self,
        reader: &mut Reader,
        mode: Mode,
        events: &[&Received<String>],
    ) -> Result<Decision<()>, Failure> {
        self.0.calls.lock().unwrap().push((events.len(), mode));
        self.0.seen.lock().unwrap().extend(events.iter().map(|event| event.data.clone()));
        let guarded = self.0.guarded.load(Relaxed);
        let mut done = Vec::new();
        if guarded && mode == Mode::Locking {
            let ids = Rows::of(events).text("id", |event| id(&event.data)).done();
            let known = reader.query(select!("select id from done where id {among}")).rows(ids);
            let known: Vec<(String,)> = known.fetch_all().await?;
            done.extend(known.into_iter().map(|(id,)| id));
        }
        let mut effects: Vec<Effect> = Vec::new();
        let (mut outgoing, mut replies) = (Outgoing::default(), Vec::new());
        for Received { data: name, .. } in events {
            let mut parent = 1;
            match self.fate_of(name) {
                None => {}
                Some(Fate::Fails) => return Err(Failure::Refused("no\0way".to_owned())),
                Some(Fate::Panics) => panic!("as the test wants it"),
                Some(Fate::MeetsConflict) => return Err(Error::conflict("as told").into()),
                Some(Fate::MeetsLock) => return Err(Error::Locked("as told".to_owned()).into()),
                Some(Fate::IsAway) => return Err(Error::from(sqlx::Error::PoolTimedOut).into()),
                Some(Fate::BreaksCommit) => parent = 2,
                Some(Fate::SwallowsError) => {
                    let _ = reader.query(select!("select nonsense")).execute().await;
                    continue;
                }
            }
            if guarded && done.contains(&id(name)) {
                continue;
            }
            done.push(id(name));
            effects.push((id(name), parent));
            if name.starts_with("ask") {
                let reply = format!("re-{name}");
                outgoing.push(&event(&reply, Timestamp::from_micros(0)));
                replies.push(id(&reply));
            }
        }
        let committed = Arc::clone(&self.0.committed);
        Ok(Decision {
            replies: vec![(); events.len()],
            writes: writes(&effects, guarded),
            outgoing,
            after_commit: Some(Box::new(move || {
                for reply in replies {
                    let loud = reply.contains("loud");
                    committed.lock().unwrap().push(reply);
                    assert!(!loud, "as the test wants it");
                }
            })),
        })
    }
}

fn writes(effects: &[Effect], guarded: bool) -> Vec<Statement> {
    if effects.is_empty() {
        return Vec::new();
    }
    let rows =
        || Rows::of(effects).text("id", |(id, _)| id.clone()).int("parent", |(_, parent)| *parent);
    let mut writes = Vec::new();
    if guarded {
        writes.push(
            Statement::new("insert into done (id) select id from {rows}").rows(rows().done()),
        );
    }
    let effect = "insert into effect (id, parent) select id, parent from {rows}";
    writes.push(Statement::new(effect).rows(rows().done()));
    writes
}
