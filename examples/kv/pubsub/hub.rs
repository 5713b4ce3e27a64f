//! The subscribers of one core.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

use foldhash::fast::RandomState;

use super::mailbox::{Mailbox, OutputLimit};
use crate::{glob, reply};

/// What is subscribed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Topic {
    Channel,
    Pattern,
}

impl Topic {
    /// The words of its confirmations, and that of its messages.
    fn words(self) -> [&'static [u8]; 3] {
        match self {
            Self::Channel => [b"subscribe", b"unsubscribe", b"message"],
            Self::Pattern => [b"psubscribe", b"punsubscribe", b"pmessage"],
        }
    }
}

type Name = Box<[u8]>;
/// By the connection's number on its core.
type Mailboxes = BTreeMap<u64, Rc<Mailbox>>;

/// Who on this core listens to what.
#[derive(Default)]
pub(crate) struct Hub {
    channels: HashMap<Name, Mailboxes, RandomState>,
    patterns: BTreeMap<Name, Mailboxes>,
    next_id: u64,
    limit: OutputLimit,
}

/// One connection's subscriptions.
#[derive(Default)]
pub(crate) struct Subscriber {
    /// Given at the first subscription.
    id: u64,
    mailbox: Option<Rc<Mailbox>>,
    channels: BTreeSet<Name>,
    patterns: BTreeSet<Name>,
}

impl Subscriber {
    /// Whether it may only subscribe, unsubscribe and the like.
    pub(crate) fn is_listening(&self) -> bool {
        self.count() > 0
    }

    /// Where its messages come; none before the first subscription.
    pub(crate) fn mailbox(&self) -> Option<&Rc<Mailbox>> {
        self.mailbox.as_ref()
    }

    fn count(&self) -> usize {
        self.channels.len() + self.patterns.len()
    }

    fn names(&mut self, topic: Topic) -> &mut BTreeSet<Name> {
        match topic {
            Topic::Channel => &mut self.channels,
            Topic::Pattern => &mut self.patterns,
        }
    }

    /// Appends the messages that have come, before its next reply.
    pub(crate) fn catch_up(&self, out: &mut Vec<u8>) {
        if let Some(mailbox) = &self.mailbox {
            mailbox.drain_into(out);
        }
    }

    fn confirm(&self, word: &[u8], name: Option<&[u8]>, out: &mut Vec<u8>) {
        reply::array(out, 3);
        reply::bulk(out, word);
        reply::optional_bulk(out, name);
        reply::integer(out, self.count() as i64);
    }
}

impl Hub {
    /// Whether anybody on this core listens to anything.
    pub(crate) fn is_empty(&self) -> bool {
        self.channels.is_empty() && self.patterns.is_empty()
    }

    /// Bounds what waits for each subscriber from now on.
    pub(crate) fn set_limit(&mut self, limit: OutputLimit) {
        self.limit = limit;
    }

    /// Subscribes to each of `names`, and appends a confirmation for each.
    pub(crate) fn subscribe<'a>(
        &mut self,
        subscriber: &mut Subscriber,
        topic: Topic,
        names: impl Iterator<Item = &'a [u8]>,
        out: &mut Vec<u8>,
    ) {
        subscriber.catch_up(out);
        let mailbox = Rc::clone(subscriber.mailbox.get_or_insert_with(|| {
            self.next_id += 1;
            subscriber.id = self.next_id;
            Rc::default()
        }));
        for name in names {
            if subscriber.names(topic).insert(name.into()) {
                let listeners = match topic {
                    Topic::Channel => self.channels.entry(name.into()).or_default(),
                    Topic::Pattern => self.patterns.entry(name.into()).or_default(),
                };
                listeners.insert(subscriber.id, Rc::clone(&mailbox));
            }
            subscriber.confirm(topic.words()[0], Some(name), out);
        }
    }

    /// Unsubscribes from each of `names`, from all where there is none, and appends a confirmation for each.
    pub(crate) fn unsubscribe<'a>(
        &mut self,
        subscriber: &mut Subscriber,
        topic: Topic,
        names: impl ExactSizeIterator<Item = &'a [u8]>,
        out: &mut Vec<u8>,
    ) {
        subscriber.catch_up(out);
        let word = topic.words()[1];
        if names.len() > 0 {
            for name in names {
                self.remove(subscriber, topic, name);
                subscriber.confirm(word, Some(name), out);
            }
            return;
        }
        if subscriber.names(topic).is_empty() {
            subscriber.confirm(word, None, out);
        }
        while let Some(name) = subscriber.names(topic).first().cloned() {
            self.remove(subscriber, topic, &name);
            subscriber.confirm(word, Some(&name), out);
        }
    }

    /// Unsubscribes from everything, without a word; what has come is dropped with the mailbox.
    pub(crate) fn leave(&mut self, subscriber: &mut Subscriber) {
        for topic in [Topic::Channel, Topic::Pattern] {
            while let Some(name) = subscriber.names(topic).first().cloned() {
                self.remove(subscriber, topic, &name);
            }
        }
        subscriber.mailbox = None;
    }

    fn remove(&mut self, subscriber: &mut Subscriber, topic: Topic, name: &[u8]) {
        if !subscriber.names(topic).remove(name) {
            return;
        }
        let listeners = match topic {
            Topic::Channel => self.channels.get_mut(name),
            Topic::Pattern => self.patterns.get_mut(name),
        };
        let Some(listeners) = listeners else { return };
        listeners.remove(&subscriber.id);
        if listeners.is_empty() {
            match topic {
                Topic::Channel => drop(self.channels.remove(name)),
                Topic::Pattern => drop(self.patterns.remove(name)),
            }
        }
    }

    /// Delivers `message` to this core's subscribers and says how many deliveries that were.
    pub(crate) fn publish(&self, channel: &[u8], message: &[u8], now_ms: i64) -> u64 {
        let mut delivered = 0;
        let mut deliver = |listeners: &Mailboxes, parts: &[&[u8]]| {
            let mut encoded = Vec::new();
            reply::array(&mut encoded, parts.len());
            for part in parts {
                reply::bulk(&mut encoded, part);
            }
            for mailbox in listeners.values() {
                mailbox.push(&encoded, self.limit, now_ms);
            }
            delivered += listeners.len() as u64;
        };
        if let Some(listeners) = self.channels.get(channel) {
            deliver(listeners, &[Topic::Channel.words()[2], channel, message]);
        }
        for (pattern, listeners) in &self.patterns {
            if glob::matches(pattern, channel) {
                deliver(listeners, &[Topic::Pattern.words()[2], pattern, channel, message]);
            }
        }
        delivered
    }

    /// Appends an array of the channels that match `pattern`.
    pub(crate) fn channels(&self, pattern: Option<&[u8]>, out: &mut Vec<u8>) {
        let wanted = |name: &[u8]| pattern.is_none_or(|pattern| glob::matches(pattern, name));
        let names: Vec<_> = self.channels.keys().filter(|name| wanted(name)).collect();
        reply::array(out, names.len());
        names.iter().for_each(|name| reply::bulk(out, name));
    }

    /// Appends an array of all patterns.
    pub(crate) fn patterns(&self, out: &mut Vec<u8>) {
        reply::array(out, self.patterns.len());
        self.patterns.keys().for_each(|name| reply::bulk(out, name));
    }

    /// Appends how many listen to `channel` by its name.
    pub(crate) fn subscribers(&self, channel: &[u8], out: &mut Vec<u8>) {
        reply::integer(out, self.channels.get(channel).map_or(0, |listeners| listeners.len() as i64));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pubsub::Arrival;
    use futures::FutureExt;

    fn names(line: &str) -> impl ExactSizeIterator<Item = &[u8]> {
        line.split_ascii_whitespace().map(str::as_bytes).collect::<Vec<_>>().into_iter()
    }

    fn shown(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap().replace("\r\n", " ")
    }

    fn received(subscriber: &Subscriber) -> String {
        match subscriber.mailbox().and_then(|mailbox| mailbox.arrival().now_or_never()) {
            Some(Arrival::Messages(messages)) => shown(messages),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn each_subscription_is_confirmed_with_the_count() {
        let (mut hub, mut one, mut out) = (Hub::default(), Subscriber::default(), Vec::new());
        hub.subscribe(&mut one, Topic::Channel, names("a b a"), &mut out);
        hub.subscribe(&mut one, Topic::Pattern, names("*"), &mut out);
        hub.unsubscribe(&mut one, Topic::Channel, names("b x"), &mut out);
        hub.unsubscribe(&mut one, Topic::Channel, names(""), &mut out);
        hub.unsubscribe(&mut one, Topic::Channel, names(""), &mut out);
        hub.unsubscribe(&mut one, Topic::Pattern, names(""), &mut out);
        assert_eq!(
            shown(out),
            "*3 $9 subscribe $1 a :1 *3 $9 subscribe $1 b :2 *3 $9 subscribe $1 a :2 *3 $10 psubscribe $1 * :3 \
             *3 $11 unsubscribe $1 b :2 *3 $11 unsubscribe $1 x :2 *3 $11 unsubscribe $1 a :1 \
             *3 $11 unsubscribe $-1 :1 *3 $12 punsubscribe $1 * :0 "
        );
        assert!(hub.is_empty() && !one.is_listening());
    }

    #[test]
    fn a_message_reaches_channels_and_patterns_and_counts_each() {
        let (mut hub, mut out) = (Hub::default(), Vec::new());
        let (mut one, mut two) = (Subscriber::default(), Subscriber::default());
        hub.subscribe(&mut one, Topic::Channel, names("news"), &mut out);
        hub.subscribe(&mut one, Topic::Pattern, names("n*"), &mut out);
        hub.subscribe(&mut two, Topic::Pattern, names("n?ws x*"), &mut out);
        assert_eq!(hub.publish(b"news", b"hi", 0), 3);
        assert_eq!(hub.publish(b"olds", b"hi", 0), 0);
        assert_eq!(received(&one), "*3 $7 message $4 news $2 hi *4 $8 pmessage $2 n* $4 news $2 hi ");
        assert_eq!(received(&two), "*4 $8 pmessage $4 n?ws $4 news $2 hi ");
        hub.leave(&mut one);
        assert_eq!(hub.publish(b"news", b"hi", 0), 1);
        hub.leave(&mut two);
        assert!(hub.is_empty());
    }

    #[test]
    fn what_came_before_an_unsubscription_is_sent_before_its_confirmation() {
        let (mut hub, mut one, mut out) = (Hub::default(), Subscriber::default(), Vec::new());
        hub.subscribe(&mut one, Topic::Channel, names("c"), &mut out);
        hub.publish(b"c", b"m", 0);
        out.clear();
        hub.unsubscribe(&mut one, Topic::Channel, names("c"), &mut out);
        assert_eq!(shown(out), "*3 $7 message $1 c $1 m *3 $11 unsubscribe $1 c :0 ");
    }
}
