//! All SQL of the outbox, the inbox and the dead letters.

use gozon_store::Migration;

pub(crate) mod dead_letters;
pub(crate) mod inbox;
pub(crate) mod outbox;
pub(crate) mod pending;

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
