"""What both parties learn: how much the customers who saw party A's advertisement spent at party B, in total. What nobody
learns: who saw it (B), what anybody spent (A).

A encrypts, for every customer, 1 or 0 under its own Paillier key. B multiplies each number with what the customer spent
and adds them up, without seeing them: Paillier ciphertexts allow that. To each batch B adds a large random mask, so that A,
who decrypts the sums, learns nothing from any one; at the end B takes the sum of the masks away. Both sides are trusted to
follow the protocol, and the customers to be matched before.

usage: two_parties.py seen 0,1,1,0,...       as party_a, with PETNET_ADDR its gateway
       two_parties.py spent 1700,0,9900,...  as party_b
"""

import argparse
import json
import secrets

from phe import paillier

import petnet

KEY_BITS = 2048
BATCH = 4
#: Bits of a mask: 2 ** 128 times what a batch can sum up to (64 bits).
MASK_BITS = 192
#: Seconds for which a gateway may be down.
PATIENCE = 600


def batches(values):
    return [values[at : at + BATCH] for at in range(0, len(values), BATCH)]


def pack(numbers):
    return json.dumps([hex(number) for number in numbers]).encode()


def unpack(message):
    return [int(number, 16) for number in json.loads(message)]


def seen(channel, flags):
    """Party A: has the key, and knows who saw the advertisement."""
    public, private = paillier.generate_paillier_keypair(n_length=KEY_BITS)
    channel.send(pack([public.n]))
    masked = 0
    for number, batch in enumerate(batches(flags)):
        channel.send(pack(public.encrypt(flag).ciphertext() for flag in batch))
        (sum_of_batch,) = unpack(channel.recv())
        masked += private.decrypt(paillier.EncryptedNumber(public, sum_of_batch))
        print(f"batch {number} is done", flush=True)
    channel.send(pack([masked]))
    return unpack(channel.recv())[0]


def spent(channel, amounts):
    """Party B: knows what each customer spent."""
    public = paillier.PaillierPublicKey(unpack(channel.recv())[0])
    masks = 0
    for batch in batches(amounts):
        flags = [paillier.EncryptedNumber(public, ciphertext) for ciphertext in unpack(channel.recv())]
        mask = secrets.randbits(MASK_BITS)
        masks += mask
        masked = sum((flag * amount for flag, amount in zip(flags, batch)), public.encrypt(mask))
        channel.send(pack([masked.ciphertext()]))
    total = unpack(channel.recv())[0] - masks
    channel.send(pack([total]))
    return total


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["seen", "spent"])
    parser.add_argument("values", type=lambda text: [int(one) for one in text.split(",")])
    parser.add_argument("--topic", default="advertisement", help="another one for each run, the same for both parties")
    parser.add_argument("--state", help="the channel's state file")
    given = parser.parse_args()
    peer, play = {"seen": ("party_b", seen), "spent": ("party_a", spent)}[given.role]
    with petnet.Client.from_environment(patience=PATIENCE) as client:
        with petnet.Channel(given.topic, peer, client, state=given.state) as channel:
            print(f"spent by those who saw it: {play(channel, given.values)}", flush=True)


if __name__ == "__main__":
    main()
