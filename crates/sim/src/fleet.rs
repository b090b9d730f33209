//! The instances: started, killed, paused and restarted as processes are.

use std::{cell::RefCell, rc::Rc, sync::Arc, time::Duration};

use anyhow::Context as _;
use gozon_contract::{Clock, RandomSource};
use gozon_gateway::{Config, Gateway, Limits, Upstream};
use gozon_http::{Health, serve};
use gozon_messaging::Broker;
use gozon_orders::{Orders, Settings, StreamLimits};
use gozon_payments::Payments;
use gozon_seam::{Process, net::TcpListener};
use gozon_service::{Stage, Tasks};
use gozon_store::{DatabaseClock, Db};
use tokio::{
    task::spawn_local,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    broker::SimulatedBroker,
    log,
    plan::{Plan, ROLES},
    run::violation,
    world::port_of,
};

/// How long an instance may take to stop in order.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a supervisor waits before it starts an instance again that has ended.
const RESTART_DELAY: Duration = Duration::from_millis(500);
/// How long a gateway waits for a service.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(8);
/// Connections of a pool.
const CONNECTIONS: u32 = 4;

/// All instances. Clones are the same.
#[derive(Clone)]
pub(crate) struct Fleet(Rc<Inner>);

struct Inner {
    broker: SimulatedBroker,
    urls: [String; 2],
    plan: Plan,
    members: RefCell<[Member; 6]>,
}

#[derive(Clone, Default)]
struct Member {
    process: Option<Process>,
    stop: CancellationToken,
    /// How often it was restarted in order: each time with other settings.
    restarts: u32,
}

impl Fleet {
    pub fn new(plan: Plan, broker: SimulatedBroker, urls: [String; 2]) -> Self {
        Self(Rc::new(Inner { broker, urls, plan, members: RefCell::default() }))
    }

    /// Starts an instance that does not run.
    pub fn start(&self, role: usize) {
        let mut members = self.0.members.borrow_mut();
        let member = &mut members[role];
        if member.process.is_some() {
            return;
        }
        let process = Process::new(ROLES[role]);
        let stop = CancellationToken::new();
        (member.process, member.stop) = (Some(process), stop.clone());
        let restarts = member.restarts;
        drop(members);
        let main = Main {
            role,
            stop: stop.clone(),
            broker: self.0.broker.clone(),
            urls: self.0.urls.clone(),
            settings: self.settings(restarts),
        };
        let running = process.run(|| gozon_seam::spawn(main.run()));
        let fleet = self.clone();
        spawn_local(async move {
            let ended = running.await;
            if fleet.0.members.borrow()[role].process != Some(process) {
                return;
            }
            if !matches!(ended, Ok(Ok(()))) {
                violation(format!("{} has ended: {ended:?}", ROLES[role]));
            }
            fleet.kill(role);
            sleep(RESTART_DELAY).await;
            fleet.start(role);
        });
    }

    fn settings(&self, restarts: u32) -> Settings {
        let Plan { resend_after, max_unsettled, .. } = self.0.plan;
        let seconds = |seconds: u64| (seconds > 0).then(|| Duration::from_secs(seconds));
        let odd = restarts % 2 == 1;
        let stream = StreamLimits {
            heartbeat: Duration::from_secs(if odd { 7 } else { 20 }),
            sockets_per_user: if odd { 2 } else { 50 },
            ..StreamLimits::default()
        };
        let max_unsettled = if odd { None } else { seconds(max_unsettled) };
        Settings { stream, resend_after: seconds(resend_after), max_unsettled }
    }

    fn process(&self, role: usize) -> Option<Process> {
        self.0.members.borrow()[role].process
    }

    /// Kills an instance.
    pub fn kill(&self, role: usize) {
        let process = self.0.members.borrow_mut()[role].process.take();
        if let Some(process) = process {
            log::note(format_args!("{} is gone", ROLES[role]));
            process.kill();
        }
    }

    pub fn pause(&self, role: usize) {
        if let Some(process) = self.process(role) {
            process.pause();
        }
    }

    pub fn resume(&self, role: usize) {
        if let Some(process) = self.process(role) {
            process.resume();
        }
    }

    /// Stops an instance in order, and starts it with other settings.
    pub async fn restart(&self, role: usize) {
        let Some(process) = self.process(role) else { return };
        let stop = {
            let mut members = self.0.members.borrow_mut();
            members[role].restarts += 1;
            members[role].stop.clone()
        };
        stop.cancel();
        let gone = async {
            while self.process(role) == Some(process) {
                sleep(Duration::from_millis(20)).await;
            }
        };
        if timeout(STOP_TIMEOUT, gone).await.is_err() {
            self.kill(role);
            self.start(role);
        }
    }
}

/// What an instance needs to know.
struct Main {
    role: usize,
    stop: CancellationToken,
    broker: SimulatedBroker,
    urls: [String; 2],
    settings: Settings,
}

impl Main {
    async fn run(self) -> anyhow::Result<()> {
        match self.role {
            0 | 1 => self.gateway().await,
            2 | 3 => self.service(0).await,
            _ => self.service(1).await,
        }
    }

    async fn gateway(self) -> anyhow::Result<()> {
        let remote = |roles: [usize; 2]| {
            let url = |role| format!("http://127.0.0.1:{}", port_of(role)).parse();
            Ok::<_, anyhow::Error>(Upstream::Remote(
                roles.into_iter().map(url).collect::<Result<_, _>>()?,
            ))
        };
        let gateway = Gateway::new(Config {
            orders: remote([2, 3])?,
            payments: remote([4, 5])?,
            web: None,
            openapi: serde_json::Value::Null,
            health: Health::default(),
            limits: Limits { response: RESPONSE_TIMEOUT, ..Limits::default() },
            clock: Clock::system(),
            random: RandomSource::system(),
            stop: self.stop.clone(),
        });
        let listener = TcpListener::listen(port_of(self.role));
        let serving = serve(listener, gateway.router(), gozon_http::Limits::default(), self.stop);
        tokio::join!(serving, gateway.sockets_closed());
        Ok(())
    }

    async fn service(self, database: usize) -> anyhow::Result<()> {
        let db = Db::open(&self.urls[database], CONNECTIONS).context("open")?;
        let time = loop {
            match DatabaseClock::start(db.clone()).await {
                Ok(time) => break time,
                Err(error) => tracing::warn!(%error, "waiting for the database"),
            }
            sleep(Duration::from_millis(500)).await;
        };
        let (random, tasks) = (RandomSource::system(), Tasks::default());
        let broker: Arc<dyn Broker> = Arc::new(self.broker);
        let routes = if database == 0 {
            Orders::start(db, broker, self.settings, time, random, &tasks).routes
        } else {
            Payments::start(db, broker, time, random, &tasks).routes
        };
        let failed = tasks.failed();
        let listener = TcpListener::listen(port_of(self.role));
        let streams = async {
            self.stop.cancelled().await;
            tasks.stop_stage(Stage::Streams).await;
        };
        let serving = serve(listener, routes, gozon_http::Limits::default(), self.stop.clone());
        tokio::select! {
            biased;
            () = failed.cancelled() => anyhow::bail!("a loop has ended"),
            _ = async { tokio::join!(serving, streams) } => {}
        }
        tasks.stop().await;
        Ok(())
    }
}
