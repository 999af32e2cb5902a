package example;

import static luna.registry.v1.Status.STATUS_DOWN;
import static luna.registry.v1.Status.STATUS_OK;

import io.grpc.Status.Code;
import io.grpc.StatusException;
import io.grpc.stub.BlockingClientCall;
import java.time.Duration;
import java.util.Scanner;
import java.util.UUID;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import luna.registry.v1.DeregisterRequest;
import luna.registry.v1.HeartbeatFailure;
import luna.registry.v1.HeartbeatRequest;
import luna.registry.v1.Instance;
import luna.registry.v1.Lease;
import luna.registry.v1.RegisterRequest;
import luna.registry.v1.RegistryGrpc.RegistryBlockingV2Stub;
import luna.registry.v1.Status;
import luna.registry.v1.StreamHeartbeatsRequest;
import luna.registry.v1.StreamHeartbeatsResponse;

/**
 * A worker that keeps itself registered with Luna over gRPC, from its start until SIGTERM or Ctrl-C. What it says of its health is
 * the last line of its standard input: OK or DOWN.
 */
public final class Worker {
    private final String id = Registry.setting("INSTANCE_ID", "orders-java:localhost:8080");
    private final String owner = UUID.randomUUID().toString(); // with it this process gets its own registration back, no one else's
    private final ScheduledExecutorService sender = Executors.newSingleThreadScheduledExecutor(); // whatever is sent on a stream
    private final CountDownLatch stopping = Registry.stoppedBySignals(() -> sender.execute(this::halfClose));
    private volatile Status health = STATUS_OK;
    private volatile BlockingClientCall<StreamHeartbeatsRequest, StreamHeartbeatsResponse> stream; // null: none to send on
    private volatile long generation; // of the registration that we hold; 0: none
    private String epoch = "";
    private Duration interval = Duration.ofSeconds(10); // until the registry names another
    private int attempts; // since the last answer

    /** Registers and sends heartbeats until told to stop, then deregisters. A registry that is away is waited for. */
    private void run() throws InterruptedException, StatusException {
        do {
            try (Registry registry = new Registry()) {
                if (generation == 0) {
                    register(registry.calls());
                }
                beat(registry.calls());
            } catch (TimeoutException error) {
                System.err.println("the registry is silent; trying again");
            } catch (StatusException error) {
                if (Registry.refusal(error.getStatus()).isPresent()) {
                    throw error;
                }
                System.err.println(error.getStatus().getDescription() + "; trying again");
            }
        } while (!stopping.await(Registry.pauseMillis(attempts++, interval), TimeUnit.MILLISECONDS));
        if (generation != 0) {
            deregister();
        }
    }

    private void register(RegistryBlockingV2Stub registry) throws StatusException {
        var request = RegisterRequest.newBuilder()
                .setInstance(Instance.newBuilder().setInstanceId(id).setVersion("1.0.0").setStatus(health))
                // At our start, whoever has the id is most likely our own earlier run, and is replaced. Later on it is our successor.
                .setReplace(epoch.isEmpty())
                .setOwner(owner)
                .build();
        var answer = registry.withDeadlineAfter(5, TimeUnit.SECONDS).register(request);
        generation = answer.getInstance().getGeneration();
        learn(answer.getLease());
        System.out.println("registered " + id);
    }

    private void learn(Lease lease) {
        var told = lease.getHeartbeatInterval();
        interval = Duration.ofSeconds(told.getSeconds(), told.getNanos());
        epoch = lease.getEpoch();
        attempts = 0;
    }

    /** Beats on one stream until there is a reason to register again, to open another stream, or to stop. */
    private void beat(RegistryBlockingV2Stub registry) throws InterruptedException, StatusException, TimeoutException {
        var call = registry.streamHeartbeats();
        stream = call;
        sender.execute(this::reportHealth);
        if (stopping.getCount() == 0) {
            sender.execute(this::halfClose);
        }
        long millis = interval.toMillis();
        var renewals = sender.scheduleAtFixedRate(this::renew, millis, millis, TimeUnit.MILLISECONDS);
        try {
            var answer = call.read(millis, TimeUnit.MILLISECONDS);
            while (answer != null) {
                if (isOver(answer)) {
                    sender.execute(this::halfClose);
                }
                // One interval until the next heartbeat, and one for its answer.
                answer = call.read(2 * millis, TimeUnit.MILLISECONDS);
            }
        } finally {
            renewals.cancel(false);
            stream = null;
            call.cancel("over", null);
        }
    }

    /** Tells whether a stream has served its time, because of what the registry says. */
    private boolean isOver(StreamHeartbeatsResponse answer) throws StatusException {
        boolean forgotten = !answer.getLease().getEpoch().equals(epoch); // the registry was started anew
        for (HeartbeatFailure failure : answer.getFailuresList()) {
            var error = io.grpc.Status.fromCodeValue(failure.getCode()).withDescription(failure.getMessage());
            if (Registry.refusal(error).isPresent()) {
                throw error.asException();
            }
            forgotten |= error.getCode() == Code.NOT_FOUND;
        }
        if (forgotten) {
            generation = 0;
        }
        learn(answer.getLease());
        return forgotten || answer.getReconnect();
    }

    /** Names our generation, so that the stream renews no other. */
    private void reportHealth() {
        var heartbeat = HeartbeatRequest.newBuilder().setInstanceId(id).setGeneration(generation).setStatus(health);
        send(StreamHeartbeatsRequest.newBuilder().addHeartbeats(heartbeat).build());
    }

    private void renew() {
        send(StreamHeartbeatsRequest.newBuilder().addInstanceIds(id).build());
    }

    private void send(StreamHeartbeatsRequest request) {
        var open = stream;
        try {
            if (open != null) {
                open.write(request);
            }
        } catch (InterruptedException | StatusException error) {
            stream = null; // whoever reads from it is told why
        }
    }

    /** Has the registry say its last word, and end the stream. */
    private void halfClose() {
        var open = stream;
        stream = null;
        if (open != null) {
            open.halfClose();
        }
    }

    private void deregister() {
        var request = DeregisterRequest.newBuilder().setInstanceId(id).setGeneration(generation).build();
        try (Registry registry = new Registry()) {
            registry.calls().withDeadlineAfter(5, TimeUnit.SECONDS).deregister(request);
            System.out.println("deregistered " + id);
        } catch (StatusException error) {
            System.err.println("not deregistered, the lease will run out: " + error.getStatus().getDescription());
        }
    }

    private void listen() {
        for (var lines = new Scanner(System.in); lines.hasNextLine(); ) {
            String line = lines.nextLine();
            if (line.equals("OK") || line.equals("DOWN")) {
                health = line.equals("OK") ? STATUS_OK : STATUS_DOWN;
                sender.execute(this::reportHealth);
            }
        }
    }

    public static void main(String[] arguments) throws InterruptedException {
        Worker worker = new Worker();
        Thread listener = new Thread(worker::listen);
        listener.setDaemon(true);
        listener.start();
        try {
            worker.run();
        } catch (StatusException error) {
            System.err.println(Registry.refusal(error.getStatus()).orElse(error.getMessage()));
            System.exit(1);
        }
        System.exit(0);
    }
}
