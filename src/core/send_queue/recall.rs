//! A flow whose reader hands its pipeline over: what was in no call goes back.

use super::{FairRing, FlowId, KeyQueue, SendQueue, Sendable};

impl<T: Sendable> KeyQueue<T> {
    /// How many of its first rows may be in the stream. Rows of a key go in order, so
    /// no later one does.
    fn in_doubt(&self) -> usize {
        let rows = self.rows.iter();
        rows.take_while(|row| row.is_in_doubt()).count()
    }
}

impl<T: Sendable> SendQueue<T> {
    /// Takes out the waiting rows of a flow that are certainly not in the stream. What
    /// may be there stays, to be sent again until that is known: nobody else could
    /// find out. What is in flight is not touched.
    pub fn recall(&mut self, flow: FlowId) -> Vec<T> {
        let Some(queue) = self.flows.get(&flow) else {
            return Vec::new();
        };
        let goes_back = |key: &KeyQueue<T>| key.rows.len() > key.in_doubt();
        let keys = queue.keys.iter().filter(|(_, key)| goes_back(key));
        let hashes: Vec<u128> = keys.map(|(hash, _)| *hash).collect();
        if hashes.is_empty() {
            return Vec::new();
        }
        let mut recalled = Vec::with_capacity(queue.rows);
        for hash in hashes {
            recalled.extend(self.recall_key(flow, hash));
        }
        self.forget_empty_keys(flow);
        recalled
    }

    fn recall_key(&mut self, flow: FlowId, hash: u128) -> Vec<T> {
        let is_ready = |key: &KeyQueue<T>| !key.in_flight;
        let key = |queue: &Self| queue.flows.get(&flow)?.keys.get(&hash).map(is_ready);
        let was_ready = key(self).unwrap_or_default();
        if was_ready {
            self.uncount_ready(flow, hash);
        }
        let Some(queue) = self.flows.get_mut(&flow) else {
            return Vec::new();
        };
        let Some(key) = queue.keys.get_mut(&hash) else {
            return Vec::new();
        };
        let recalled: Vec<T> = key.rows.split_off(key.in_doubt());
        let bytes: usize = recalled.iter().map(Sendable::weight).sum();
        key.bytes -= bytes;
        key.again = key.again.min(key.rows.len());
        queue.rows -= recalled.len();
        queue.bytes -= bytes;
        let is_empty = key.rows.is_empty();
        self.rows -= recalled.len();
        self.bytes -= bytes;
        if was_ready && !is_empty {
            self.count_ready(flow, hash);
        }
        recalled
    }

    /// Keys without rows have no turn, and those that are not in flight are forgotten.
    fn forget_empty_keys(&mut self, flow: FlowId) {
        let Some(queue) = self.flows.get_mut(&flow) else {
            return;
        };
        let keys = &mut queue.keys;
        keys.retain(|_, key| key.in_flight || !key.rows.is_empty());
        let had_turns = !queue.fresh.is_empty();
        queue.fresh.retain(|hash| keys.contains_key(hash));
        self.retry
            .retain(|(of, hash)| *of != flow || keys.contains_key(hash));
        if had_turns && queue.fresh.is_empty() {
            let flow = queue.flow.clone();
            self.leave_ring(&flow, FairRing::leave);
        }
        self.forget_flow_if_done(flow);
    }
}
