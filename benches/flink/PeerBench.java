import java.time.Duration;
import java.util.Arrays;
import java.util.concurrent.atomic.LongAccumulator;
import java.util.concurrent.atomic.LongAdder;
import org.apache.flink.api.common.functions.AggregateFunction;
import org.apache.flink.api.common.functions.ReduceFunction;
import org.apache.flink.api.common.functions.RichFilterFunction;
import org.apache.flink.api.common.state.ListState;
import org.apache.flink.api.common.state.ListStateDescriptor;
import org.apache.flink.api.common.typeinfo.TypeHint;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.java.tuple.Tuple3;
import org.apache.flink.configuration.CheckpointingOptions;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.configuration.MemorySize;
import org.apache.flink.configuration.StateBackendOptions;
import org.apache.flink.configuration.TaskManagerOptions;
import org.apache.flink.runtime.state.FunctionInitializationContext;
import org.apache.flink.runtime.state.FunctionSnapshotContext;
import org.apache.flink.streaming.api.checkpoint.CheckpointedFunction;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.datastream.KeyedStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.sink.v2.DiscardingSink;
import org.apache.flink.streaming.api.functions.source.legacy.RichParallelSourceFunction;
import org.apache.flink.streaming.api.functions.windowing.ProcessWindowFunction;
import org.apache.flink.streaming.api.watermark.Watermark;
import org.apache.flink.streaming.api.windowing.assigners.TumblingEventTimeWindows;
import org.apache.flink.streaming.api.windowing.windows.TimeWindow;
import org.apache.flink.util.Collector;

/**
 * The peer's half of `make bench-flink`: the jobs of the bench table on Flink, in one JVM.
 *
 * <p>Rows, event time and digests are those of benches/src/events.rs, number for number, so that
 * both print the same checksum. What a Flink user would do for speed is done: tuples, object reuse,
 * a source that takes the checkpoint lock once per 256 rows, a warm-up before the first measured
 * run. A run is timed from the first row out of a source to the last row into the sink, so that
 * neither start nor stop of the cluster counts.
 *
 * <p>Arguments: NAME window-count|running-reduce KEYS hashmap|rocksdb EVENTS RUNS DIR
 */
public final class PeerBench {
    static final int PARALLELISM = 2;
    static final long EVENTS_PER_MS = 10_000;

    static final LongAdder CHECKSUM = new LongAdder();
    static final LongAdder EMITTED = new LongAdder();
    static final LongAccumulator FIRST_NS = new LongAccumulator(Math::min, Long.MAX_VALUE);
    static final LongAccumulator LAST_NS = new LongAccumulator(Math::max, Long.MIN_VALUE);

    public static void main(String[] args) throws Exception {
        String name = args[0];
        long events = Long.parseLong(args[4]);
        int runs = Integer.parseInt(args[5]);
        run(args, events); // The first run is the JIT compiler's; it does not count.
        double[] rates = new double[runs];
        for (int i = 0; i < runs; i++) {
            rates[i] = run(args, events);
            System.err.printf(
                    "%s run %d: %.3f M events/s, %d rows out, checksum %016x%n",
                    name, i + 1, rates[i], EMITTED.sum(), CHECKSUM.sum());
        }
        Arrays.sort(rates);
        System.out.printf(
                "%s\t%.3f\t%d\t%016x%n", name, rates[runs / 2], events, CHECKSUM.sum());
        System.exit(0);
    }

    /** One run of the job; millions of events per second. */
    static double run(String[] args, long events) throws Exception {
        long keys = Long.parseLong(args[2]);
        CHECKSUM.reset();
        EMITTED.reset();
        FIRST_NS.reset();
        LAST_NS.reset();

        Configuration conf = new Configuration();
        conf.set(StateBackendOptions.STATE_BACKEND, args[3]);
        conf.set(CheckpointingOptions.CHECKPOINT_STORAGE, "filesystem");
        conf.set(CheckpointingOptions.CHECKPOINTS_DIRECTORY, "file://" + args[6] + "/checkpoints");
        conf.set(CheckpointingOptions.CHECKPOINTING_INTERVAL, Duration.ofSeconds(1));
        conf.set(CheckpointingOptions.INCREMENTAL_CHECKPOINTS, true);
        // A mini cluster gives RocksDB 128 MB unless told otherwise.
        conf.set(TaskManagerOptions.MANAGED_MEMORY_SIZE, MemorySize.parse("2g"));
        conf.setString("io.tmp.dirs", args[6] + "/tmp");
        StreamExecutionEnvironment env =
                StreamExecutionEnvironment.createLocalEnvironment(PARALLELISM, conf);
        env.getConfig().enableObjectReuse();

        TypeInformation<Tuple3<Long, Long, Long>> row = TypeInformation.of(new TypeHint<>() {});
        KeyedStream<Tuple3<Long, Long, Long>, Long> keyed =
                env.addSource(new Generator(keys, events, args[1]), "generated", row)
                        .keyBy(event -> event.f0, Types.LONG);
        DataStream<Tuple3<Long, Long, Long>> results =
                switch (args[1]) {
                    case "window-count" ->
                            keyed.window(TumblingEventTimeWindows.of(Duration.ofSeconds(1)))
                                    .aggregate(new Count(), new WithWindow(), Types.LONG, Types.LONG, row);
                    case "running-reduce", "loaded-zipf", "loaded-uniform" -> keyed.reduce(new Sum());
                    default -> throw new IllegalArgumentException("no job " + args[1]);
                };
        results.filter(new Digest(args[1].equals("window-count"))).sinkTo(new DiscardingSink<>());
        env.execute(args[0]);
        long loaded = args[1].startsWith("loaded") ? keys : 0;
        return (events - loaded) * 1e3 / (LAST_NS.get() - FIRST_NS.get());
    }

    static final double THETA = 0.99;

    /**
     * Keys by Zipf's law: Gray et al., "Quickly generating billion-record synthetic databases",
     * 1994; as in ../src/engine/spilled.rs.
     */
    static final class Zipf implements java.io.Serializable {
        private final long keys;
        private final double zeta;
        private final double eta;

        Zipf(long keys) {
            this.keys = keys;
            double zeta = 0;
            for (long i = 1; i <= keys; i++) {
                zeta += Math.pow(i, -THETA);
            }
            double two = 1 + Math.pow(0.5, THETA);
            this.zeta = zeta;
            this.eta = (1 - Math.pow(2.0 / keys, 1 - THETA)) / (1 - two / zeta);
        }

        long at(long i) {
            double u = (splitmix(i) >>> 11) * 0x1p-53;
            if (u * zeta < 1) {
                return 0;
            }
            if (u * zeta < 1 + Math.pow(0.5, THETA)) {
                return 1;
            }
            long rank = (long) (keys * Math.pow(eta * u - eta + 1, 1 / (1 - THETA)));
            return Math.min(rank, keys - 1);
        }
    }

    static long splitmix(long i) {
        long z = i + 0x9e3779b97f4a7c15L;
        z = (z ^ (z >>> 30)) * 0xbf58476d1ce4e5b9L;
        z = (z ^ (z >>> 27)) * 0x94d049bb133111ebL;
        return z ^ (z >>> 31);
    }

    /** Subtask s of p makes rows s, s + p, s + 2p ..., so that event time advances alike in all. */
    static final class Generator extends RichParallelSourceFunction<Tuple3<Long, Long, Long>>
            implements CheckpointedFunction {
        private final long keys;
        private final long events;
        /** So many rows first, one of each key, before time is taken. */
        private final long loaded;
        private final Zipf zipf;
        private volatile boolean cancelled;
        private transient long next;
        private transient ListState<Long> position;

        Generator(long keys, long events, String job) {
            this.keys = keys;
            this.events = events;
            this.loaded = job.startsWith("loaded") ? keys : 0;
            this.zipf = job.equals("loaded-zipf") ? new Zipf(keys) : null;
        }

        private long key(long i) {
            if (i < loaded) {
                return i;
            }
            return zipf == null ? ((splitmix(i) >>> 32) * keys) >>> 32 : zipf.at(i);
        }

        @Override
        public void run(SourceContext<Tuple3<Long, Long, Long>> out) {
            long step = getRuntimeContext().getTaskInfo().getNumberOfParallelSubtasks();
            if (next == 0) {
                next = getRuntimeContext().getTaskInfo().getIndexOfThisSubtask();
            }
            long watermark = Long.MIN_VALUE;
            boolean begun = false;
            while (!cancelled && next < events) {
                if (!begun && next >= loaded) {
                    FIRST_NS.accumulate(System.nanoTime());
                    begun = true;
                }
                synchronized (out.getCheckpointLock()) {
                    for (int n = 0; n < 256 && next < events; n++) {
                        long key = key(next);
                        long ts = next / EVENTS_PER_MS;
                        if (ts - 1 > watermark) {
                            watermark = ts - 1;
                            out.emitWatermark(new Watermark(watermark));
                        }
                        out.collectWithTimestamp(Tuple3.of(key, ts, (key & 0xff) + 1), ts);
                        next += step;
                    }
                }
            }
        }

        @Override
        public void cancel() {
            cancelled = true;
        }

        @Override
        public void snapshotState(FunctionSnapshotContext context) throws Exception {
            position.update(java.util.List.of(next));
        }

        @Override
        public void initializeState(FunctionInitializationContext context) throws Exception {
            position =
                    context.getOperatorStateStore()
                            .getListState(new ListStateDescriptor<>("position", Types.LONG));
            for (long stored : position.get()) {
                next = stored;
            }
        }
    }

    static final class Count implements AggregateFunction<Tuple3<Long, Long, Long>, Long, Long> {
        @Override
        public Long createAccumulator() {
            return 0L;
        }

        @Override
        public Long add(Tuple3<Long, Long, Long> event, Long count) {
            return count + 1;
        }

        @Override
        public Long getResult(Long count) {
            return count;
        }

        @Override
        public Long merge(Long a, Long b) {
            return a + b;
        }
    }

    /** (key, window start, count). */
    static final class WithWindow
            extends ProcessWindowFunction<Long, Tuple3<Long, Long, Long>, Long, TimeWindow> {
        @Override
        public void process(
                Long key,
                Context context,
                Iterable<Long> counts,
                Collector<Tuple3<Long, Long, Long>> out) {
            for (Long count : counts) {
                out.collect(Tuple3.of(key, context.window().getStart(), count));
            }
        }
    }

    /** (key, any time, sum so far). */
    static final class Sum implements ReduceFunction<Tuple3<Long, Long, Long>> {
        @Override
        public Tuple3<Long, Long, Long> reduce(
                Tuple3<Long, Long, Long> sum, Tuple3<Long, Long, Long> event) {
            return Tuple3.of(sum.f0, event.f1, sum.f2 + event.f2);
        }
    }

    /** Where results end: summed into the checksum, passed on to nobody. */
    static final class Digest extends RichFilterFunction<Tuple3<Long, Long, Long>> {
        private final boolean windowed;
        private transient long sum;
        private transient long rows;

        Digest(boolean windowed) {
            this.windowed = windowed;
        }

        @Override
        public boolean filter(Tuple3<Long, Long, Long> r) {
            long start = windowed ? r.f1 : 0;
            sum += splitmix(r.f0 ^ Long.rotateLeft(start, 20) ^ Long.rotateLeft(r.f2, 40));
            if ((++rows & 63) == 0) {
                LAST_NS.accumulate(System.nanoTime());
            }
            return false;
        }

        @Override
        public void close() {
            CHECKSUM.add(sum);
            EMITTED.add(rows);
        }
    }
}
