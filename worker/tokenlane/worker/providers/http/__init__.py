"""What all back ends over HTTP share: the client, bounded streams, and what a server's errors mean."""
