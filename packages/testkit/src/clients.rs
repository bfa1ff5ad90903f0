//! Clients of a [`Cluster`], by whom they ask and how long they wait.

use std::time::Duration;

use anyhow::Result;
use chainfire_client::{Client, Options};
use tonic::transport::Channel;

use crate::Cluster;

impl Cluster {
    /// Of all members.
    pub fn client(&self) -> Result<Client> {
        self.client_of_these(0..self.len())
    }

    /// Of one member.
    pub fn client_of(&self, place: usize) -> Result<Client> {
        self.client_of_these([place])
    }

    /// Of these members, the first one first.
    pub fn client_of_these(&self, places: impl IntoIterator<Item = usize>) -> Result<Client> {
        self.client_with(places, Options::default())
    }

    /// Of all members but one.
    pub fn client_of_others(&self, place: usize) -> Result<Client> {
        self.client_of_these((0..self.len()).filter(|other| *other != place))
    }

    /// Of these members, with other limits of time.
    pub fn client_with(
        &self,
        places: impl IntoIterator<Item = usize>,
        options: Options,
    ) -> Result<Client> {
        let these = places.into_iter().map(|place| self.endpoint(place));
        Ok(Client::connect_with(these, self.tls()?, options)?)
    }

    /// One for each member.
    pub fn client_of_each(&self) -> Result<Vec<Client>> {
        (0..self.len()).map(|place| self.client_of(place)).collect()
    }

    /// Of all members, for measuring: it finds the living quickly.
    pub fn quick_client(&self) -> Result<Client> {
        let options = Options {
            deadline: Duration::from_secs(2),
            read_attempt: Duration::from_millis(500),
            ..Options::default()
        };
        self.client_with(0..self.len(), options)
    }

    /// Two for each member: one is pinned to it, whatever becomes of it; one begins there and goes
    /// where there is an answer. None of them waits long.
    pub fn pinned_and_roaming(&self) -> Result<Vec<Client>> {
        let short = Options {
            deadline: Duration::from_secs(3),
            read_attempt: Duration::from_secs(1),
            ..Options::default()
        };
        let mut clients = Vec::new();
        for place in 0..self.len() {
            clients.push(self.client_with([place], short.clone())?);
            clients.push(self.client_with(self.rotated(place), short.clone())?);
        }
        Ok(clients)
    }

    /// All places, this one first.
    pub fn rotated(&self, first: usize) -> impl Iterator<Item = usize> {
        let len = self.len();
        (0..len).map(move |n| (first + n) % len)
    }

    /// A connection to one member, for the generated clients.
    pub fn channel(&self, place: usize) -> Result<Channel> {
        Ok(rpc::channel(&self.endpoint(place), self.tls()?.as_ref())?)
    }
}
