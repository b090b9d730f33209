//! What every broker has to do, written once and run against each of them; how they differ is
//! declared in `subject.rs`. The servers come from `scripts/services run -- cargo test`.

mod away;
mod broadcast;
mod competing;
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
                    messages_arrive_as_they_were_sent,
                    a_message_waits_until_it_is_dealt_with,
                    consumers_share_the_work,
                    what_a_dead_consumer_held_comes_again,
                    what_is_given_back_comes_again,
                    the_messages_of_a_key_keep_their_order,
                    publishers_do_not_disturb_each_other,
                    an_unknown_topic_is_rejected_and_the_rest_is_safe;
                broadcast:
                    every_listener_hears_everything,
                    a_late_listener_hears_only_what_is_said_later,
                    nobody_need_listen;
                poison:
                    a_poison_message_is_set_aside_and_the_rest_flows;
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
                    a_closed_port_is_a_clean_error,
                    a_silent_server_is_a_clean_error;
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
#[cfg(feature = "rabbitmq")]
mod rabbitmq_users {
    cases! { RABBITMQ, read; away: refused_credentials_are_a_clean_error; }
}
