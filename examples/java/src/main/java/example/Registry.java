package example;

import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.stub.MetadataUtils;
import java.time.Duration;
import java.util.Base64;
import java.util.Optional;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import luna.registry.v1.RegistryGrpc;
import luna.registry.v1.RegistryGrpc.RegistryBlockingV2Stub;
import sun.misc.Signal;

/** A connection of its own: one that is shared with other parts of a program may be the one that has just gone silent. */
final class Registry implements AutoCloseable {
    private static final Metadata.Key<String> AUTHORIZATION = Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);

    private final ManagedChannel channel =
            Grpc.newChannelBuilder(setting("LUNA_ADDRESS", "127.0.0.1:50051"), InsecureChannelCredentials.create())
                    .keepAliveTime(20, TimeUnit.SECONDS)
                    .keepAliveTimeout(5, TimeUnit.SECONDS)
                    .build();

    /** The calls, which carry user and password. */
    RegistryBlockingV2Stub calls() {
        String user = setting("LUNA_AUTH_USERNAME", "admin") + ":" + setting("LUNA_AUTH_PASSWORD", "");
        Metadata headers = new Metadata();
        headers.put(AUTHORIZATION, "Basic " + Base64.getEncoder().encodeToString(user.getBytes()));
        return RegistryGrpc.newBlockingV2Stub(channel).withInterceptors(MetadataUtils.newAttachHeadersInterceptor(headers));
    }

    @Override
    public void close() {
        channel.shutdownNow();
    }

    /** What to tell people about an error that the next try would meet again; nothing for any other error. */
    static Optional<String> refusal(Status error) {
        String text = switch (error.getCode()) {
            case UNAUTHENTICATED -> "wrong credentials: check LUNA_AUTH_USERNAME and LUNA_AUTH_PASSWORD";
            case PERMISSION_DENIED -> "not allowed";
            case INVALID_ARGUMENT -> "not accepted";
            case ALREADY_EXISTS, FAILED_PRECONDITION -> "another registration has taken over";
            default -> null;
        };
        return Optional.ofNullable(text).map(refusal -> refusal + " (" + error.getDescription() + ")");
    }

    /** How long to wait before another try; with full jitter, or else all clients would come back at the same moment. */
    static long pauseMillis(int attempts, Duration longest) {
        return ThreadLocalRandom.current().nextLong(1 + Math.min(longest.toMillis(), 500L << Math.min(attempts, 10)));
    }

    /** A latch that SIGTERM and Ctrl-C open. A shutdown hook would end with an exit code that is not 0. */
    static CountDownLatch stoppedBySignals(Runnable then) {
        CountDownLatch stopping = new CountDownLatch(1);
        for (String name : new String[] {"TERM", "INT"}) {
            Signal.handle(new Signal(name), signal -> {
                stopping.countDown();
                then.run();
            });
        }
        return stopping;
    }

    static String setting(String name, String fallback) {
        return System.getenv().getOrDefault(name, fallback);
    }
}
