//! What every broker has to do, written once and run against each of them; how they differ is
//! declared in `subject.rs`. The servers come from `scripts/services run -- cargo test`.

#![allow(clippy::unwrap_used, reason = "that is how a test fails")]

mod away;
mod broadcast;
mod competing;
#[cfg(feature = "rabbitmq")]
mod foreign;
mod poison;
mod restart;
mod subject;

/// Tests that share the servers with others (`read`) or must have them alone (`write`).
macro_rules! cases {
    ($subject:ident, $turn:ident; $($module:ident: $($case:ident),+;)+) => {
        $($(
            #[tokio::test]
            async fn $case() {
                let _turn = crate::subject::SERVERS.$turn().await;
                crate::$module::$case(&crate::subject::$subject).await;
            }
        )+)+
    };
}

/// What any broker does.
macro_rules! broker {
    ($name:ident, $subject:ident) => {
        mod $name {
            cases! { $subject, read;
                competing:
                    events_arrive_as_they_were_sent,
                    event_waits_until_it_is_dealt_with,
                    delivery_sent_again_has_the_same_id,
                    consumers_share_the_work,
                    events_of_a_dead_consumer_come_again,
                    returned_events_come_again,
                    events_of_a_key_keep_their_order,
                    publishers_do_not_disturb_each_other,
                    unknown_topic_is_rejected_and_the_rest_is_safe;
                broadcast:
                    every_listener_hears_everything,
                    late_listener_hears_only_what_is_said_later,
                    nobody_need_listen;
                poison:
                    poison_event_is_set_aside_and_the_rest_flows;
            }
        }
    };
}

/// What a broker also does that is a server of its own.
macro_rules! server {
    ($name:ident, $subject:ident) => {
        mod $name {
            cases! { $subject, read;
                away:
                    closed_port_is_a_clean_error,
                    silent_server_is_a_clean_error;
            }
            cases! { $subject, write;
                restart:
                    nothing_is_lost_when_the_server_is_killed,
                    everything_works_again_when_the_server_is_back;
            }
        }
    };
}

broker!(memory, MEMORY);
#[cfg(feature = "rabbitmq")]
broker!(rabbitmq, RABBITMQ);
#[cfg(feature = "rabbitmq")]
server!(rabbitmq_server, RABBITMQ);
#[cfg(feature = "kafka")]
broker!(kafka, KAFKA);
#[cfg(feature = "kafka")]
server!(kafka_server, KAFKA);
#[cfg(feature = "rabbitmq")]
mod rabbitmq_only {
    cases! { RABBITMQ, read;
        away: refused_credentials_are_a_clean_error;
        foreign: old_and_foreign_messages_are_read;
    }
}
