//! All SQL of the outbox, the inbox and the dead letters.

use std::time::Duration;

use gozon_store::Migration;

pub(crate) mod dead_letters;
pub(crate) mod inbox;
pub(crate) mod outbox;
pub(crate) mod pending;

/// Longer than anything is leased or put off. A row that is available only later than this was written
/// by a process with a wrong time: it had started just after the database's clock jumped ahead, and was
/// killed before anybody saw that.
const LONGEST_WAIT: Duration = Duration::from_mins(2);

/// The tables that every service with an outbox and an inbox needs.
pub const MIGRATIONS: &[Migration] = &[
    Migration {
        component: "messaging",
        version: 1,
        postgres: include_str!("../../migrations/postgres/1_messaging.sql"),
        sqlite: include_str!("../../migrations/sqlite/1_messaging.sql"),
    },
    Migration {
        component: "messaging",
        version: 2,
        postgres: include_str!("../../migrations/postgres/2_outbox_batches.sql"),
        sqlite: include_str!("../../migrations/sqlite/2_outbox_batches.sql"),
    },
];
