package example;

import io.grpc.StatusException;
import io.grpc.stub.BlockingClientCall;
import java.time.Duration;
import java.util.HashMap;
import java.util.HashSet;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import luna.registry.v1.Event;
import luna.registry.v1.EventType;
import luna.registry.v1.Instance;
import luna.registry.v1.WatchServicesRequest;
import luna.registry.v1.WatchServicesResponse;

/** Prints the changes of a service, until SIGTERM or Ctrl-C. */
public final class Watch {
    private static final Duration LONGEST_PAUSE = Duration.ofSeconds(10);

    private final String name;
    private final CountDownLatch stopping = Registry.stoppedBySignals(this::cancel);
    private volatile BlockingClientCall<?, WatchServicesResponse> call; // null: none yet
    private String token = ""; // where to go on
    private final Map<String, String> known = new HashMap<>(); // what was printed of each instance
    private Set<String> unseen; // what a snapshot has not named yet; null when none is under way
    private int attempts; // since the last message

    private Watch(String name) {
        this.name = name;
    }

    private void cancel() {
        var open = call;
        if (open != null) {
            open.cancel("stopped", null);
        }
    }

    private void run() throws InterruptedException, StatusException {
        do {
            try (Registry registry = new Registry()) {
                watch(registry);
            } catch (StatusException error) {
                if (Registry.refusal(error.getStatus()).isPresent()) {
                    throw error;
                }
                if (stopping.getCount() > 0) {
                    System.err.println(error.getStatus().getDescription() + "; trying again");
                }
            }
        } while (!stopping.await(Registry.pauseMillis(attempts++, LONGEST_PAUSE), TimeUnit.MILLISECONDS));
    }

    /** Goes on from the last token, until the stream ends. */
    private void watch(Registry registry) throws InterruptedException, StatusException {
        unseen = null;
        var request = WatchServicesRequest.newBuilder().addNames(name).setResumeToken(token).build();
        var messages = registry.calls().watchServices(request);
        call = messages;
        for (var message = messages.read(); message != null; message = messages.read()) {
            attempts = 0;
            apply(message);
        }
    }

    private void apply(WatchServicesResponse message) {
        if (message.getReset()) {
            unseen = new HashSet<>(known.keySet());
        }
        for (Event event : message.getEventsList()) {
            if (event.getType() == EventType.EVENT_TYPE_REMOVED) {
                forget(event.getInstance().getInstanceId());
            } else {
                show(event.getInstance());
            }
        }
        if (message.getSynced()) {
            System.err.println("in step, from " + (unseen == null ? "where it was" : "the beginning"));
            Set<String> left = unseen == null ? Set.of() : unseen;
            unseen = null;
            left.forEach(this::forget); // they left while nobody told us
        }
        if (!message.getResumeToken().isEmpty()) {
            token = message.getResumeToken();
        }
    }

    private void show(Instance instance) {
        String id = instance.getInstanceId();
        String shown = instance.getStatus().name().replace("STATUS_", "") + " " + instance.getUrl();
        if (unseen != null) {
            unseen.remove(id);
        }
        if (!shown.equals(known.put(id, shown))) {
            System.out.println(id + " " + shown);
        }
    }

    private void forget(String id) {
        if (unseen != null) {
            unseen.remove(id);
        }
        if (known.remove(id) != null) {
            System.out.println(id + " gone");
        }
    }

    public static void main(String[] arguments) throws InterruptedException {
        if (arguments.length != 1) {
            System.err.println("usage: Watch SERVICE");
            System.exit(2);
        }
        try {
            new Watch(arguments[0]).run();
        } catch (StatusException error) {
            System.err.println(Registry.refusal(error.getStatus()).orElse(error.getMessage()));
            System.exit(1);
        }
        System.exit(0);
    }
}
