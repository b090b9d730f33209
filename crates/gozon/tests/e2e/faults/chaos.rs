//! Faults of every kind, one after the other and several at once, chosen by a seed.

use std::{
    collections::{BTreeMap, HashMap},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use gozon_contract::RandomSource;
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
    metadata::{Metadata, MetadataTopic},
};
use tempfile::TempDir;
use tokio::{
    process::Command,
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep},
};

use crate::harness::{Postgres, Servers, Shop};

const TOPICS: [&str; 2] = ["payment.requested", "payment.settled"];
/// Changes of a column's type, and what undoes them. They take effect whatever the type is now.
const ALTERED: [(Service, &str); 6] = [
    (Service::Orders, "alter table orders alter column description type varchar(4000)"),
    (Service::Orders, "alter table orders alter column description type text"),
    (Service::Orders, "alter table outbox_batches alter column topic type varchar(100)"),
    (Service::Orders, "alter table outbox_batches alter column topic type text"),
    (Service::Payments, "alter table entries alter column kind type varchar(20)"),
    (Service::Payments, "alter table entries alter column kind type text"),
];
const LOCKS: [(Service, &str); 4] = [
    (Service::Payments, "select 1 from accounts limit 3 for update"),
    (Service::Orders, "select 1 from orders limit 100 for update"),
    (Service::Payments, "lock table payments in access exclusive mode"),
    (Service::Orders, "lock table outbox_batches in exclusive mode"),
];

#[derive(Clone, Copy)]
enum Service {
    Orders,
    Payments,
}

/// How often which fault comes, and how long it lasts.
#[derive(Clone, Copy)]
pub struct Pace {
    /// The mean wait between two faults.
    pub between: Duration,
    /// The longest that a process stands still, in seconds. A lock is held for half of that, and a
    /// server's fault lasts for a third.
    pub longest: u64,
}

/// What goes wrong.
pub struct Faults<'s> {
    pub shop: &'s mut Shop,
    servers: Arc<Servers>,
    random: RandomSource,
    pace: Pace,
    /// A file per process that says how wrong its clock is.
    clocks: TempDir,
    under_way: JoinSet<()>,
    /// What is wrong with a server for a while. No server has two faults at once.
    at_servers: HashMap<&'static str, JoinHandle<()>>,
    happened: BTreeMap<&'static str, usize>,
}

impl<'s> Faults<'s> {
    /// For a shop that is not started yet.
    pub fn new(
        shop: &'s mut Shop,
        servers: Arc<Servers>,
        random: RandomSource,
        pace: Pace,
    ) -> Self {
        let clocks = tempfile::tempdir().expect("a temporary folder");
        for process in &mut shop.processes {
            let clock = clocks.path().join(&process.name);
            std::fs::write(&clock, "+0").expect("a clock");
            process.with_clock_of(&clock);
        }
        Self {
            shop,
            servers,
            random,
            pace,
            clocks,
            under_way: JoinSet::new(),
            at_servers: HashMap::new(),
            happened: BTreeMap::new(),
        }
    }

    fn below(&self, bound: usize) -> usize {
        usize::try_from(self.random.next_u64() % bound as u64).expect("small")
    }

    fn one_of<T: Copy>(&self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// Up to so many seconds.
    fn up_to(&self, seconds: u64) -> Duration {
        Duration::from_millis(500 + self.random.next_u64() % (1_000 * seconds.max(1)))
    }

    pub async fn happen_until(&mut self, until: Instant) {
        while Instant::now() < until {
            for process in &mut self.shop.processes {
                if process.revive() {
                    *self.happened.entry("ended by itself").or_default() += 1;
                }
            }
            let name = self.next().await;
            *self.happened.entry(name).or_default() += 1;
            sleep(self.random.jitter(self.pace.between)).await;
        }
    }

    /// Everything that is still wrong is put right; what has happened, and how often.
    pub async fn end(mut self) -> BTreeMap<&'static str, usize> {
        for (_, fault) in self.at_servers.drain() {
            fault.await.expect("a server's fault");
        }
        while let Some(ended) = self.under_way.join_next().await {
            ended.expect("a fault");
        }
        self.happened
    }

    /// One more fault; what it was.
    async fn next(&mut self) -> &'static str {
        let [postgres, postgres2, broker] = self.servers.names();
        match self.below(18) {
            0..=3 => self.kill_process().await,
            4 | 5 => self.pause_process(),
            6 | 7 => self.hold_lock(),
            8 => self.shift_clock(),
            9 => self.cut_connections().await,
            10 | 11 => self.purge().await,
            12 => self.alter_table(),
            13 | 14 => self.at_server(self.one_of(&[postgres, postgres2]), Fault::FullDisk).await,
            15 if broker == "rabbitmq" => {
                let alarm = self.one_of(&[Fault::MemoryAlarm, Fault::DiskAlarm]);
                self.at_server(broker, alarm).await
            }
            15 => self.at_server(broker, Fault::Pause).await,
            16 => self.at_server(self.one_of(&self.servers.names()), Fault::Pause).await,
            _ => self.at_server(self.one_of(&self.servers.names()), Fault::Crash).await,
        }
    }

    async fn kill_process(&mut self) -> &'static str {
        let victim = self.below(self.shop.processes.len());
        let process = &mut self.shop.processes[victim];
        process.kill().await;
        process.start();
        "kill"
    }

    fn pause_process(&mut self) -> &'static str {
        let process = &self.shop.processes[self.below(self.shop.processes.len())];
        process.pause();
        let (id, lasting) = (process.id().to_string(), self.up_to(self.pace.longest));
        self.under_way.spawn(async move {
            sleep(lasting).await;
            // It may have been killed in the meantime.
            let resume = Command::new("kill").args(["-CONT", &id]).stderr(Stdio::null()).status();
            let _ = resume.await;
        });
        "pause"
    }

    fn url_of(&self, service: Service) -> String {
        match service {
            Service::Orders => self.shop.orders_url.clone(),
            Service::Payments => self.shop.payments_url.clone(),
        }
    }

    /// The server may be away, or crash in the meantime: then it is no fault.
    fn hold_lock(&mut self) -> &'static str {
        let (service, lock) = self.one_of(&LOCKS);
        let (url, lasting) = (self.url_of(service), self.up_to(self.pace.longest / 2));
        self.under_way.spawn(async move {
            let Ok(mut holder) = Postgres::try_on(&url).await else { return };
            let _ = holder.try_run(&format!("begin; {lock}")).await;
            sleep(lasting).await;
            holder.close().await;
        });
        "lock"
    }

    fn shift_clock(&self) -> &'static str {
        let hours = self.below(96).cast_signed() - 48;
        let process = &self.shop.processes[self.below(self.shop.processes.len())];
        let clock = self.clocks.path().join(&process.name);
        std::fs::write(clock, format!("{hours:+}h")).expect("a clock");
        "clock"
    }

    async fn cut_connections(&self) -> &'static str {
        let service = self.one_of(&[Service::Orders, Service::Payments]);
        if let Ok(mut server) = Postgres::try_on(&self.url_of(service)).await {
            let _ = server.try_end_sessions().await;
            server.close().await;
        }
        "cut connections"
    }

    /// In the background, since it waits for locks that others hold.
    fn alter_table(&mut self) -> &'static str {
        let (service, change) = self.one_of(&ALTERED);
        let url = self.url_of(service);
        self.under_way.spawn(async move {
            let Ok(mut server) = Postgres::try_on(&url).await else { return };
            let _ = server.try_run(&format!("set lock_timeout = '20s'; {change}")).await;
            server.close().await;
        });
        "altered table"
    }

    /// All messages of a topic that wait on the broker are lost.
    async fn purge(&self) -> &'static str {
        let (url, prefix) = self.shop.broker_url.split_once("?prefix=").expect("a prefix");
        let topic = format!("{prefix}{}", self.one_of(&TOPICS));
        if self.is_busy(self.servers.broker()) {
            // It may not answer now.
            return self.shift_clock();
        }
        if self.servers.broker() == "rabbitmq" {
            self.servers.rabbitmqctl(&["purge_queue", &topic]).await;
        } else {
            delete_records(url.trim_start_matches("kafka://"), &topic).await;
        }
        "purged topic"
    }

    fn is_busy(&self, server: &str) -> bool {
        self.at_servers.get(server).is_some_and(|fault| !fault.is_finished())
    }

    /// Something is wrong with a server for a while; after that, it is made to run if it ended.
    async fn at_server(&mut self, server: &'static str, fault: Fault) -> &'static str {
        if let Some(before) = self.at_servers.remove(server) {
            before.await.expect("a server's fault");
        }
        let (servers, lasting) = (Arc::clone(&self.servers), self.up_to(self.pace.longest / 3));
        let task = tokio::spawn(async move {
            fault.set(&servers, server, true).await;
            sleep(lasting).await;
            fault.set(&servers, server, false).await;
            servers.up(server).await;
        });
        self.at_servers.insert(server, task);
        fault.name()
    }
}

/// What can be wrong with a server.
#[derive(Clone, Copy)]
enum Fault {
    Crash,
    Pause,
    FullDisk,
    MemoryAlarm,
    DiskAlarm,
}

impl Fault {
    fn name(self) -> &'static str {
        match self {
            Self::Crash => "server crash",
            Self::Pause => "server pause",
            Self::FullDisk => "full disk",
            Self::MemoryAlarm => "memory alarm",
            Self::DiskAlarm => "disk alarm",
        }
    }

    async fn set(self, servers: &Servers, server: &str, wrong: bool) {
        match (self, wrong) {
            (Self::Crash, true) => servers.kill(server).await,
            // The server is started again by the caller.
            (Self::Crash, false) => {}
            (Self::Pause, true) => servers.pause(server).await,
            (Self::Pause, false) => servers.resume(server).await,
            (Self::FullDisk, _) => servers.fill_disk(server, wrong).await,
            (Self::MemoryAlarm, _) => {
                let limit = if wrong { "0.0001" } else { "0.6" };
                servers.rabbitmqctl(&["set_vm_memory_high_watermark", limit]).await;
            }
            (Self::DiskAlarm, _) => {
                let limit = if wrong { "100000GB" } else { "50MB" };
                servers.rabbitmqctl(&["set_disk_free_limit", limit]).await;
            }
        }
    }
}

/// Deletes all records of a topic.
async fn delete_records(servers: &str, topic: &str) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", servers).create().expect("a client");
    let (name, timeout) = (topic.to_owned(), Duration::from_secs(10));
    let (admin, metadata) = tokio::task::spawn_blocking(move || {
        let metadata = admin.inner().fetch_metadata(Some(&name), timeout);
        (admin, metadata)
    })
    .await
    .expect("metadata");
    let mut ends = TopicPartitionList::new();
    for partition in metadata.iter().flat_map(Metadata::topics).flat_map(MetadataTopic::partitions)
    {
        ends.add_partition_offset(topic, partition.id(), Offset::End).expect("an offset");
    }
    let options = AdminOptions::new().request_timeout(Some(timeout));
    if let Err(error) = admin.delete_records(&ends, &options).await {
        println!("{topic} is not purged: {error}");
    }
}
