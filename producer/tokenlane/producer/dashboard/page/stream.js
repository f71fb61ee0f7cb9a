// Reads the server-sent events of the dashboard. `EventSource` cannot send a token in a header, so this uses `fetch`.

const SILENT_MS = 30_000;
const PAUSES_MS = [500, 1000, 2000, 5000];

/**
 * Follow the events for as long as the page lives, and connect again whenever the connection breaks. An error that
 * `history` or `look` throws is a bug of the page, and is reported as such: the connection goes on.
 *
 * `headers()` gives the headers of a connection. `on` has `history(document)`, `look(document)`, `lost(reason)`, and
 * `refused(reason)`, which returns a promise that resolves once there is a token to try.
 */
export async function followEvents(headers, on) {
  for (let failures = 0; ; failures += 1) {
    try {
      const response = await fetch("events", { headers: headers(), cache: "no-store" });
      if (response.status === 401) {
        await on.refused((await response.text()).trim());
        failures = -1;
        continue;
      }
      if (!response.ok) throw new Error((await response.text()).trim());
      for await (const { kind, text } of eventsOf(response.body)) {
        const document = JSON.parse(text);
        failures = -1;
        deliver(document, on[kind]);
      }
      on.lost("The dashboard ended the connection.");
    } catch (error) {
      on.lost(reasonOf(error));
    }
    await new Promise((resolve) => setTimeout(resolve, PAUSES_MS[Math.min(Math.max(failures, 0), PAUSES_MS.length - 1)]));
  }
}

function deliver(document, take) {
  try {
    take?.(document);
  } catch (error) {
    reportError(error);
  }
}

function reasonOf(error) {
  if (error instanceof TypeError) return "The dashboard does not answer."; // as `fetch` says it
  if (error instanceof SyntaxError) return "What came is not from the dashboard.";
  return error.message;
}

async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await withLimit(reader.read());
      if (done) return;
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      for (const event of events) {
        const fields = Object.fromEntries(event.split("\n").map((line) => line.split(/: (.*)/s, 2)));
        yield { kind: fields.event, text: fields.data };
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function withLimit(promise) {
  let timer;
  const silent = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error("The dashboard sends nothing.")), SILENT_MS);
  });
  return Promise.race([promise, silent]).finally(() => clearTimeout(timer));
}
