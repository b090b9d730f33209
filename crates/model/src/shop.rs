//! What the protocol does: which steps are possible, and what each of them changes.

use stateright::{Model, Property};

use crate::{
    Action, End, Faults, Instance, Message, Phase, Service, State, Status, Trap, Work, properties,
};

/// So often is a payment asked for at most: often enough for the faults that there are, and the model
/// must have an end.
const MAX_ASKED: u8 = 3;

/// What is placed, and which faults may happen.
#[derive(Clone, Debug)]
pub struct Shop {
    /// What each order that clients ask for costs. All are of one user.
    pub amounts: Vec<i8>,
    /// What the user's account holds at the start, if there is one.
    pub funds: Option<i8>,
    /// The faults that may happen.
    pub faults: Faults,
    /// What is done as other systems do it.
    pub trap: Option<Trap>,
}

impl Shop {
    pub(crate) fn is(&self, trap: Trap) -> bool {
        self.trap == Some(trap)
    }

    /// What an order costs. With a trap, an order can be placed again under another id.
    pub(crate) fn amount(&self, order: u8) -> i8 {
        self.amounts[usize::from(order) % self.amounts.len()]
    }

    /// The steps that are no faults.
    pub fn regular_actions(&self, state: &State) -> Vec<Action> {
        let mut actions = Vec::new();
        self.client_actions(state, &mut actions);
        for service in Service::ALL {
            for instance in 0..2 {
                let instances = &state.instances[service as usize];
                // Two idle instances are the same.
                if instance == 1 && instances.iter().all(Instance::is_idle) {
                    continue;
                }
                self.relay_actions(state, service, instance, &mut actions);
                Self::consumer_actions(state, service, instance, &mut actions);
            }
        }
        if actions.is_empty() {
            // Orders that stay NEW are asked for again, but only when time passes and nothing happens.
            let stay = state.orders.iter().filter(|(_, status)| **status == Status::New);
            let lost = state.faults.messages_lost < self.faults.messages_lost;
            let stay = stay.filter(|(order, _)| lost && Self::asked(state, **order) < MAX_ASKED);
            actions.extend(stay.map(|(order, _)| Action::AskAgain { order: *order }));
        }
        actions
    }

    fn client_actions(&self, state: &State, actions: &mut Vec<Action>) {
        for request in (0..self.amounts.len()).filter_map(|n| u8::try_from(n).ok()) {
            if state.answered.contains(&request) {
                continue;
            }
            if self.is(Trap::CursorOverSequence) || self.is(Trap::SendBeforeCommit) {
                match state.begun.iter().find(|(begun, _)| *begun == request) {
                    Some(_) => actions.push(Action::End { request, commits: true }),
                    None => actions.push(Action::Begin { request }),
                }
            } else {
                actions.push(Action::Place { request, answered: true });
            }
        }
    }

    fn relay_actions(
        &self,
        state: &State,
        service: Service,
        instance: usize,
        actions: &mut Vec<Action>,
    ) {
        let Instance { published, in_memory, .. } = &state.instances[service as usize][instance];
        for message in in_memory {
            actions.push(Action::Send { service, instance, message: *message });
        }
        if published.is_some() {
            actions.push(Action::Delete { service, instance });
            return;
        }
        let instances = &state.instances[service as usize];
        for row in &state.outbox[service as usize] {
            // Its lease; a fault can end it early.
            if instances.iter().any(|other| other.published == Some(*row)) {
                continue;
            }
            if self.is(Trap::CursorOverSequence)
                && service == Service::Orders
                && row.copy <= state.cursor
            {
                continue;
            }
            actions.push(Action::Publish { service, instance, row: *row, confirmed: true });
        }
    }

    fn consumer_actions(
        state: &State,
        service: Service,
        instance: usize,
        actions: &mut Vec<Action>,
    ) {
        match state.instances[service as usize][instance].work {
            None => {
                let mut last = None;
                for message in &state.queue[service.other() as usize] {
                    if last.replace(*message) != Some(*message) {
                        actions.push(Action::Receive { service, instance, message: *message });
                    }
                }
            }
            Some(Work { phase: Phase::Read | Phase::HalfCommitted, .. }) => {
                actions.push(Action::Commit { service, instance, end: End::Done });
            }
            Some(Work { phase: Phase::Committed, .. }) => {
                actions.push(Action::Acknowledge { service, instance });
            }
        }
    }

    fn faults(&self, state: &State, actions: &mut Vec<Action>) {
        let Faults { crashes, duplicates, lost, messages_lost } = state.faults;
        if lost > 0 {
            for action in actions.clone() {
                match action {
                    Action::Place { request, .. } => {
                        actions.push(Action::Place { request, answered: false });
                    }
                    Action::End { request, .. } => {
                        actions.push(Action::End { request, commits: false });
                    }
                    Action::Publish { service, instance, row, .. } => {
                        actions.push(Action::Publish { service, instance, row, confirmed: false });
                    }
                    Action::Commit { service, instance, .. } => {
                        for end in [End::AnswerLost, End::Failed] {
                            actions.push(Action::Commit { service, instance, end });
                        }
                    }
                    _ => {}
                }
            }
        }
        if crashes > 0 {
            for service in Service::ALL {
                for instance in 0..2 {
                    if !state.instances[service as usize][instance].is_idle() {
                        actions.push(Action::Crash { service, instance });
                    }
                }
            }
            if self.is(Trap::ForgetfulBroker) {
                actions.push(Action::RestartBroker);
            }
        }
        if duplicates > 0 {
            // While a message is in the queue, a second one can as well come later.
            let queued = |message: &&Message| state.queue[message.from as usize].contains(message);
            for message in state.ever_published.iter().filter(|message| !queued(message)) {
                let marked = state.inbox[message.from.other() as usize].contains(message);
                actions.push(Action::Duplicate { message: *message, forgotten: false });
                if marked {
                    actions.push(Action::Duplicate { message: *message, forgotten: true });
                }
            }
            let new = state.orders.iter().filter(|(_, status)| **status == Status::New);
            actions.extend(new.map(|(order, _)| Action::AskAgain { order: *order }));
            for service in Service::ALL {
                for instance in 0..2 {
                    let held = state.instances[service as usize][instance].published;
                    actions.extend(held.map(|_| Action::EndLease { service, instance }));
                }
            }
        }
        if messages_lost > 0 {
            let queues = state.queue.iter().flatten();
            actions.extend(queues.map(|message| Action::LoseMessage { message: *message }));
        }
    }

    fn place(&self, state: &mut State, request: u8) {
        let again = u8::try_from(self.amounts.len()).unwrap_or(0);
        let order = if self.is(Trap::NoIdempotencyKey) && state.orders.contains_key(&request) {
            request + again
        } else {
            request
        };
        if state.orders.contains_key(&order) {
            return;
        }
        state.orders.insert(order, Status::New);
        let message = Message { from: Service::Orders, order, copy: 0, paid: false };
        if self.is(Trap::SendAfterCommit) {
            state.instance(Service::Orders, 0).in_memory.insert(message);
        } else {
            state.outbox[Service::Orders as usize].insert(message);
        }
    }

    fn publish(&self, state: &mut State, service: Service, instance: usize, row: Message) {
        if self.is(Trap::CursorOverSequence) && service == Service::Orders {
            state.cursor = state.cursor.max(row.copy);
            state.outbox[service as usize].remove(&row);
            return state.enqueue(row);
        }
        if self.is(Trap::DeleteBeforePublish) {
            state.outbox[service as usize].remove(&row);
            state.instance(service, instance).in_memory.insert(row);
            return;
        }
        state.enqueue(row);
        state.instance(service, instance).published = Some(row);
    }

    fn receive(&self, state: &mut State, service: Service, instance: usize, message: Message) {
        let queue = &mut state.queue[message.from as usize];
        let place = queue.iter().position(|queued| *queued == message).expect("it is there");
        queue.remove(place);
        let read = state.balance.filter(|_| self.is(Trap::NoLockOnAccount));
        let work = Work { message, read, phase: Phase::Read };
        state.instance(service, instance).work = Some(work);
    }

    fn commit(&self, state: &mut State, service: Service, instance: usize, end: End) {
        let Some(mut work) = state.instance(service, instance).work else { return };
        if end == End::Failed {
            if self.is(Trap::AcknowledgeAfterFailure) {
                state.instance(service, instance).work = None;
            } else if self.is(Trap::SkipAfterFailure) {
                state.instance(service, instance).work = None;
                state.uncommitted.insert(work.message);
            } else {
                self.give_back(state, service, instance);
            }
            return;
        }
        let done = match service {
            Service::Payments => self.settle(state, work),
            Service::Orders => Self::apply(state, work.message),
        };
        if !done {
            return self.give_back(state, service, instance);
        }
        let in_two = self.is(Trap::DebitAndMarkInTwoCommits) && service == Service::Payments;
        if in_two && work.phase == Phase::Read {
            work.phase = Phase::HalfCommitted;
        } else {
            state.inbox[service as usize].insert(work.message);
            work.phase = Phase::Committed;
        }
        state.instance(service, instance).work = Some(work);
        if end == End::AnswerLost {
            self.give_back(state, service, instance);
        }
    }

    /// A message goes back to the broker.
    fn give_back(&self, state: &mut State, service: Service, instance: usize) {
        if let Some(work) = state.instance(service, instance).work.take()
            && !self.is(Trap::AcknowledgeBeforeCommit)
        {
            state.enqueue(work.message);
        }
    }

    /// Decides a payment; whether it could be.
    fn settle(&self, state: &mut State, work: Work) -> bool {
        let Message { order, .. } = work.message;
        let marked = state.inbox[Service::Payments as usize].contains(&work.message);
        if marked || work.phase == Phase::HalfCommitted {
            return true;
        }
        let known = state.payments.get(&order).copied();
        let paid = match known {
            Some(_) if self.is(Trap::RepeatIsNotAnswered) => return true,
            Some(paid) if !self.payments_are_unguarded() => paid,
            _ => {
                let held = if self.is(Trap::NoLockOnAccount) { work.read } else { state.balance };
                if held.is_none() && self.is(Trap::NoAccountIsRetried) {
                    return false;
                }
                let amount = self.amount(order);
                let left = held.map(|held| held - amount).filter(|left| *left >= 0);
                if let Some(left) = left {
                    state.balance = Some(left);
                    state.debits.push(order);
                    state.debits.sort_unstable();
                }
                left.is_some()
            }
        };
        state.payments.entry(order).or_insert(paid);
        let copy = Self::next_copy(state, Service::Payments, order);
        let paid = state.payments[&order];
        let result = Message { from: Service::Payments, order, copy, paid };
        state.outbox[Service::Payments as usize].insert(result);
        true
    }

    fn payments_are_unguarded(&self) -> bool {
        self.is(Trap::DebitAndMarkInTwoCommits)
            || self.is(Trap::NoKeyOnPayments)
            || self.is(Trap::ConflictIgnored)
    }

    /// Moves an order on; whether it is there.
    fn apply(state: &mut State, message: Message) -> bool {
        let Some(status) = state.orders.get_mut(&message.order) else { return true };
        if *status == Status::New {
            *status = if message.paid { Status::Finished } else { Status::Cancelled };
        }
        true
    }

    /// How often the payment of an order was asked for.
    fn asked(state: &State, order: u8) -> u8 {
        Self::next_copy(state, Service::Orders, order)
    }

    /// The number of the next message of a service about an order.
    fn next_copy(state: &State, from: Service, order: u8) -> u8 {
        let said = state.ever_published.iter().chain(&state.outbox[from as usize]);
        let said = said.filter(|message| message.from == from && message.order == order);
        said.map(|message| message.copy + 1).max().unwrap_or(0)
    }

    fn ask_again(state: &mut State, order: u8) {
        let copy = Self::asked(state, order);
        let row = Message { from: Service::Orders, order, copy, paid: false };
        state.outbox[Service::Orders as usize].insert(row);
    }

    fn crash(&self, state: &mut State, service: Service, instance: usize) {
        let crashed = std::mem::take(state.instance(service, instance));
        if let Some(work) = crashed.work
            && !self.is(Trap::AcknowledgeBeforeCommit)
        {
            state.enqueue(work.message);
        }
        for message in std::mem::take(&mut state.uncommitted) {
            state.enqueue(message);
        }
    }

    /// The transaction of a request begins: it takes a number, or sends its message.
    fn begin(&self, state: &mut State, request: u8) {
        let number = 1 + u8::try_from(state.begun.len() + state.orders.len()).unwrap_or(0);
        state.begun.insert((request, number));
        if self.is(Trap::SendBeforeCommit) {
            let message = Message { from: Service::Orders, order: request, copy: 0, paid: false };
            state.enqueue(message);
        }
    }

    fn end(&self, state: &mut State, request: u8, commits: bool) {
        let begun = state.begun.iter().find(|(begun, _)| *begun == request).copied();
        let Some((_, number)) = begun else { return };
        state.begun.remove(&(request, number));
        state.answered.insert(request);
        if !commits {
            return;
        }
        state.orders.insert(request, Status::New);
        if self.is(Trap::CursorOverSequence) {
            let (from, order, copy) = (Service::Orders, request, number);
            state.outbox[from as usize].insert(Message { from, order, copy, paid: false });
        }
    }

    fn spend(state: &mut State, action: Action) {
        let faults = &mut state.faults;
        match action {
            Action::Crash { .. } | Action::RestartBroker => faults.crashes -= 1,
            Action::Duplicate { .. } | Action::EndLease { .. } => faults.duplicates -= 1,
            Action::Place { answered: false, .. }
            | Action::Publish { confirmed: false, .. }
            | Action::End { commits: false, .. }
            | Action::Commit { end: End::AnswerLost | End::Failed, .. } => faults.lost -= 1,
            Action::LoseMessage { .. } => faults.messages_lost -= 1,
            Action::AskAgain { .. } => faults.duplicates = faults.duplicates.saturating_sub(1),
            _ => {}
        }
    }
}

impl Model for Shop {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(self.funds, self.faults)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.extend(self.regular_actions(state));
        self.faults(state, actions);
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        Self::spend(&mut state, action);
        match action {
            Action::Place { request, answered } => {
                self.place(&mut state, request);
                if answered {
                    state.answered.insert(request);
                }
            }
            Action::AskAgain { order } => Self::ask_again(&mut state, order),
            Action::Publish { service, instance, row, confirmed } => {
                self.publish(&mut state, service, instance, row);
                if !confirmed {
                    state.instance(service, instance).published = None;
                }
            }
            Action::Delete { service, instance } => {
                if let Some(row) = state.instance(service, instance).published.take() {
                    state.outbox[service as usize].remove(&row);
                }
            }
            Action::Receive { service, instance, message } => {
                self.receive(&mut state, service, instance, message);
            }
            Action::Commit { service, instance, end } => {
                self.commit(&mut state, service, instance, end);
            }
            Action::Acknowledge { service, instance } => {
                state.instance(service, instance).work = None;
                state.uncommitted.clear();
            }
            Action::Crash { service, instance } => self.crash(&mut state, service, instance),
            Action::RestartBroker => state.queue = Default::default(),
            Action::Duplicate { message, forgotten } => {
                if forgotten {
                    state.inbox[message.from.other() as usize].remove(&message);
                }
                state.enqueue(message);
            }
            Action::EndLease { service, instance } => {
                let row = state.instance(service, instance).published?;
                let other = state.instance(service, 1 - instance);
                if other.published.is_some() {
                    return None;
                }
                other.published = Some(row);
                state.enqueue(row);
            }
            Action::LoseMessage { message } => {
                let queue = &mut state.queue[message.from as usize];
                let place = queue.iter().position(|queued| *queued == message)?;
                queue.remove(place);
            }
            Action::Begin { request } => self.begin(&mut state, request),
            Action::End { request, commits } => self.end(&mut state, request, commits),
            Action::Send { service, instance, message } => {
                state.instance(service, instance).in_memory.remove(&message);
                state.enqueue(message);
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}
