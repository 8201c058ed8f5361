# Starts moto with its SQS made safe for threads. Its server answers each request in a thread of its
# own, and deletes a message by replacing the queue's list: of two that do so at the same time while a
# third adds a message, that message is lost.

from functools import wraps

from moto.server import main
from moto.sqs.models import SQSBackend


def one_at_a_time(method):
    @wraps(method)
    def locked(self, queue_name, *arguments, **named):
        # Who waits for messages lets go of it.
        with self.get_queue(queue_name)._messages_lock:
            return method(self, queue_name, *arguments, **named)

    return locked


for name in ("send_message", "receive_message", "delete_message", "change_message_visibility"):
    setattr(SQSBackend, name, one_at_a_time(getattr(SQSBackend, name)))

main()
