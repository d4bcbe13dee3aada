/* Models and CPUID leaves: src/cpu/cpu_model.c, cpuid.c; availability of instructions: isa_set.c. */
#include "system_test.h"

#include "cpu/isa_set.h"

static struct cpuid_result query(struct bench *b, uint32_t leaf, uint32_t subleaf)
{
    return cpuid_query(b->v, leaf, subleaf);
}

static void refused(const char *spec, const char *message)
{
    struct error err = {0};
    assert_null(cpu_model_create(spec, &err));
    if (strstr(err.message, message) == NULL)
        fail_msg("%s: %s", spec, err.message);
}

static void test_specs(void **state)
{
    refused("pentum", "did you mean 'pentium'?");
    refused("max,+avx3", "did you mean 'avx'?");
    refused("max,sse2", "+sse2");
    refused("max,sse2=yes", "sse2=on");
    refused("max,-fpu", "fpu");
    refused("386,+avx", "386");
    static const char *const good[] = {NULL,
                                       "",
                                       "max",
                                       "host",
                                       "x86-64-v1",
                                       "486",
                                       "386",
                                       "pentium",
                                       "pentium3",
                                       "max,-avx",
                                       "max,-sse4.2,+SSE4-1",
                                       "max,lm=off",
                                       "max,pni=on,,-invtsc"};
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        struct error err = {0};
        struct cpu_model *model = cpu_model_create(good[i], &err);
        if (model == NULL)
            fail_msg("%s: %s", good[i], err.message);
        assert_true(model_has(model, CPU_FPU));
        assert_int_equal(model->cpus, 1);
        free(model);
    }
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    cpu_model_help(out);
    fclose(out);
    assert_non_null(strstr(text, "x86-64-v3"));
    assert_non_null(strstr(text, "tsc_deadline_timer"));
    free(text);
}

static void test_dependencies(void **state)
{
    struct error err;
    struct cpu_model *model = cpu_model_create("max,-xsave", &err);
    static const enum cpu_feature gone[] = {CPU_XSAVE, CPU_AVX, CPU_AVX2, CPU_FMA, CPU_F16C, CPU_XSAVES, CPU_VAES};
    for (size_t i = 0; i < ARRAY_LEN(gone); i++)
        assert_false(model_has(model, gone[i]));
    assert_false(model->cr4_mask & CR4_OSXSAVE);
    assert_int_equal(model->xsave_size, 0);
    free(model);
    model = cpu_model_create("max,-lm", &err);
    assert_false(model_has(model, CPU_CX16));
    assert_false(model_has(model, CPU_PCID));
    assert_false(model->efer_mask & EFER_LME);
    assert_true(model->efer_mask & EFER_NXE);
    free(model);
    model = cpu_model_create("pentium,+xsave", &err);
    assert_true(model_has(model, CPU_SSE)); /* what it needs comes along */
    assert_int_equal(model->level, 0xd);
    assert_int_equal(model->xsave_size, 576);
    free(model);
}

static void test_max(void **state)
{
    struct bench *b = *state;
    system_model(*state, "max");
    struct cpuid_result r = query(b, 0, 0);
    assert_memory_equal(&r.ebx, b->model.vendor, 4);
    assert_memory_equal(&r.edx, b->model.vendor + 4, 4);
    assert_memory_equal(&r.ecx, b->model.vendor + 8, 4);
    assert_int_equal(r.eax, b->model.level);
    assert_true(cpu_has(b->v, CPU_LM) && cpu_has(b->v, CPU_SSE2) && cpu_has(b->v, CPU_KVM_CLOCKSOURCE2));
    assert_false(cpu_has(b->v, CPU_MONITOR));
    assert_true(b->model.maxphyaddr >= 40 && b->model.maxphyaddr <= 46);
    for (uint32_t leaf = 0x80000002; leaf <= 0x80000004; leaf++) {
        r = query(b, leaf, 0);
        assert_memory_equal(&r, b->model.brand + 16 * (leaf - 0x80000002), 16);
    }
    assert_int_equal(query(b, 0x80000008, 0).eax, b->model.maxphyaddr | 48 << 8);
    /* 512 KiB of second-level cache, however it is described */
    assert_int_equal(query(b, 0x80000006, 0).ecx >> 16, 512);
    r = query(b, b->model.amd ? 0x8000001d : 4, 2);
    assert_int_equal((r.ebx >> 22) + 1, 8);
    assert_int_equal(((r.ebx >> 22) + 1) * ((r.ebx & 0xfff) + 1) * (r.ecx + 1), 512 * 1024);
    assert_int_equal(query(b, b->model.amd ? 0x8000001d : 4, 4).eax, 0);
}

static void test_dynamic_bits(void **state)
{
    struct bench *b = *state;
    struct system *s = *state;
    struct vcpu *v = b->v;
    system_model(s, "x86-64-v1,+xsave,+monitor");
    assert_false(query(b, 1, 0).ecx & 1u << 27);
    v->cr4 = CR4_OSXSAVE;
    assert_true(query(b, 1, 0).ecx & 1u << 27);
    assert_true(query(b, 1, 0).edx & 1u << 9);
    s->apic_base = 0xfee00000;
    assert_false(query(b, 1, 0).edx & 1u << 9);
    v->apic_id = 5;
    assert_int_equal(query(b, 1, 0).ebx >> 24, 5);
    assert_true(query(b, 1, 0).ecx & 1u << 3);
    uint64_t misc = v->msr.misc_enable;
    assert_true(msr_write(v, 0x1a0, misc & ~MISC_ENABLE_MONITOR));
    assert_false(query(b, 1, 0).ecx & 1u << 3);
    assert_true(msr_write(v, 0x1a0, misc | MISC_ENABLE_LIMIT_CPUID | MISC_ENABLE_XD_DISABLE));
    assert_int_equal(query(b, 0, 0).eax, 2);
    assert_false(query(b, 0x80000001, 0).edx & 1u << 20);
    assert_false(query(b, 0x80000001, 0).edx & 1u << 11); /* Intel: SYSCALL in 64-bit mode only */
    bench_long(b, 0);
    assert_true(query(b, 0x80000001, 0).edx & 1u << 11);
}

static void test_xsave_leaf(void **state)
{
    struct bench *b = *state;
    system_model(*state, "x86-64-v1,+xsavec,+xgetbv1");
    struct cpuid_result r = query(b, 0xd, 0);
    assert_int_equal(r.eax, 3);
    assert_int_equal(r.ebx, 576);
    assert_int_equal(r.ecx, 576);
    assert_int_equal(query(b, 0xd, 1).eax, 6);
    assert_int_equal(query(b, 0xd, 2).eax, 0);
    system_model(*state, "max");
    if (!cpu_has(b->v, CPU_AVX))
        return;
    r = query(b, 0xd, 0);
    assert_int_equal(r.eax, 7);
    assert_int_equal(r.ebx, 576);
    assert_int_equal(r.ecx, 832);
    b->v->xcr0 = 7;
    assert_int_equal(query(b, 0xd, 0).ebx, 832);
    assert_int_equal(query(b, 0xd, 1).ebx, 832);
    r = query(b, 0xd, 2);
    assert_int_equal(r.eax, 256);
    assert_int_equal(r.ebx, 576);
    assert_int_equal(query(b, 0xd, 3).eax, 0);
}

static void test_topology(void **state)
{
    struct bench *b = *state;
    assert_false(query(b, 1, 0).edx & 1u << 28);
    b->model.cpus = 6;
    b->v->apic_id = 4;
    struct cpuid_result r = query(b, 0xb, 0);
    assert_int_equal(r.eax, 0);
    assert_int_equal(r.ebx, 1);
    assert_int_equal(r.ecx, 0x100);
    assert_int_equal(r.edx, 4);
    r = query(b, 0xb, 1);
    assert_int_equal(r.eax, 3);
    assert_int_equal(r.ebx, 6);
    assert_int_equal(r.ecx, 0x201);
    r = query(b, 0xb, 2);
    assert_int_equal(r.ebx, 0);
    assert_int_equal(r.ecx, 2);
    assert_int_equal(query(b, 1, 0).ebx >> 16 & 0xff, 6);
    assert_true(query(b, 1, 0).edx & 1u << 28);
    assert_int_equal(query(b, 4, 0).eax >> 26, 7);
    assert_int_equal(query(b, 4, 3).eax >> 14 & 0xfff, 7);
    b->model.amd = true;
    b->model.ext_level = 0x80000021;
    b->model.word[CPUID_8000_0001_ECX] |= 1u << (CPU_TOPOEXT % 32);
    assert_int_equal(query(b, 0x80000008, 0).ecx, 5 | 3 << 12);
    assert_true(query(b, 0x80000001, 0).ecx & 2);
    assert_int_equal(query(b, 0x80000001, 0).eax, b->model.signature);
    r = query(b, 0x8000001e, 0);
    assert_int_equal(r.eax, 4);
    assert_int_equal(r.ebx, 4);
    assert_int_equal(query(b, 0x8000001d, 3).eax >> 14 & 0xfff, 5);
    /* several Pentium III: a socket each (AP-485, table 5-5: HTT is reserved there) */
    system_model(*state, "pentium3");
    b->model.cpus = 2;
    assert_false(query(b, 1, 0).edx & 1u << 28);
    assert_int_equal(query(b, 1, 0).ebx >> 16 & 0xff, 0);
}

static void test_limits(void **state)
{
    struct bench *b = *state;
    /* Intel: beyond the last basic leaf comes the last one */
    struct cpuid_result last = query(b, 0x16, 0), r = query(b, 0x3fffffff, 0);
    assert_memory_equal(&r, &last, sizeof r);
    r = query(b, 0x80000009, 0);
    assert_memory_equal(&r, &last, sizeof r);
    r = query(b, 0x40000000, 0);
    assert_int_equal(r.eax, 0x40000010);
    assert_memory_equal(&r.ebx, "KVMKVMKVM\0\0\0", 12);
    assert_int_equal(query(b, 0x40000001, 0).eax, 0x0100004b);
    assert_int_equal(query(b, 0x40000010, 0).eax, 1000000);
    assert_int_equal(query(b, 0x15, 0).ecx, 1000000000);
    b->model.amd = true;
    r = query(b, 0x3fffffff, 0);
    assert_int_equal(r.eax | r.ebx | r.ecx | r.edx, 0);
    system_model(*state, "pentium");
    assert_int_equal(query(b, 0, 0).eax, 1);
    assert_int_equal(query(b, 0x80000000, 0).eax, 0x52c);
    assert_int_equal(query(b, 0x40000000, 0).eax, 0x52c);
    assert_int_equal(query(b, 1, 0).edx, 0x3bf);
    system_model(*state, "486");
    assert_int_equal(query(b, 1, 0).edx, 0xb);
}

static void test_instruction(void **state)
{
    struct bench *b = *state;
    struct vcpu *v = b->v;
    struct insn in = insn_plain(4);
    bench_long(b, 3);
    v->regs[RAX] = 0xffffffff00000000;
    v->regs[RCX] = ~0ull;
    assert_int_equal(bench_run(b, op_cpuid, &in), NO_FAULT);
    assert_int_equal(v->regs[RAX], 0x16);
    assert_int_equal(v->regs[RBX], 0x756e6547);
    assert_int_equal(v->regs[RDX], 0x49656e69);
    assert_int_equal(v->regs[RCX], 0x6c65746e);
    assert_int_equal(b->exits[EXIT_CPUID], 1);
}

/* ---- isa_set.c ---- */
static bool decodes(const struct cpu_model *model, bool wide, const char *bytes, ZydisMnemonic *mnemonic)
{
    ZydisDecoder decoder;
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    uint8_t buffer[15] = {0};
    memcpy(buffer, bytes, strlen(bytes));
    ZydisDecoderInit(&decoder, wide ? ZYDIS_MACHINE_MODE_LONG_64 : ZYDIS_MACHINE_MODE_LEGACY_32,
                     wide ? ZYDIS_STACK_WIDTH_64 : ZYDIS_STACK_WIDTH_32);
    isa_set_decoder_init(model, &decoder);
    assert_true(ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, buffer, sizeof buffer, &insn, operands)));
    *mnemonic = insn.mnemonic;
    return isa_set_available(model, insn.meta.isa_set, &insn);
}

static void test_isa_sets(void **state)
{
    static const struct {
        const char *spec, *bytes;
        bool wide, there;
        ZydisMnemonic mnemonic;
    } cases[] = {
        {"386", "\x0f\xa2", false, false, ZYDIS_MNEMONIC_CPUID},
        {"386", "\x0f\xc8", false, false, ZYDIS_MNEMONIC_BSWAP},
        {"386", "\x0f\xa3\xc0", false, true, ZYDIS_MNEMONIC_BT},
        {"486", "\x0f\xa2", false, true, ZYDIS_MNEMONIC_CPUID},
        {"486", "\x0f\xc7\x08", false, false, ZYDIS_MNEMONIC_CMPXCHG8B},
        {"486", "\x0f\x31", false, false, ZYDIS_MNEMONIC_RDTSC},
        {"486", "\x0f\x1f\xc0", false, false, ZYDIS_MNEMONIC_NOP},
        {"486", "\xf3\x90", false, true, ZYDIS_MNEMONIC_PAUSE},
        {"pentium", "\x0f\x32", false, true, ZYDIS_MNEMONIC_RDMSR},
        {"pentium", "\x0f\x40\xc0", false, false, ZYDIS_MNEMONIC_CMOVO},
        {"pentium", "\x0f\x6f\xc0", false, false, ZYDIS_MNEMONIC_MOVQ},
        {"pentium3", "\x0f\x1f\xc0", false, true, ZYDIS_MNEMONIC_NOP},
        {"pentium3", "\x0f\x58\xc0", false, true, ZYDIS_MNEMONIC_ADDPS},
        {"pentium3", "\x66\x0f\x58\xc0", false, false, ZYDIS_MNEMONIC_ADDPD},
        {"pentium3", "\x0f\x34", false, true, ZYDIS_MNEMONIC_SYSENTER},
        {"pentium3", "\x9f", false, true, ZYDIS_MNEMONIC_LAHF},
        {"x86-64-v1", "\x9f", true, false, ZYDIS_MNEMONIC_LAHF},
        {"x86-64-v2", "\x9f", true, true, ZYDIS_MNEMONIC_LAHF},
        {"x86-64-v1", "\x0f\x05", true, true, ZYDIS_MNEMONIC_SYSCALL},
        {"x86-64-v1", "\x0f\x05", false, false, ZYDIS_MNEMONIC_SYSCALL},
        {"x86-64-v1", "\xf3\x0f\xbc\xc0", true, true, ZYDIS_MNEMONIC_BSF},
        {"x86-64-v1", "\xf3\x0f\xbd\xc0", true, true, ZYDIS_MNEMONIC_BSR},
        {"x86-64-v1", "\xf3\x0f\x1e\xfa", true, true, ZYDIS_MNEMONIC_NOP},
        {"x86-64-v1", "\xf3\x48\x0f\x1e\xc8", true, true, ZYDIS_MNEMONIC_NOP},
        {"x86-64-v1", "\x0f\x1a\xc0", true, true, ZYDIS_MNEMONIC_NOP},
        {"x86-64-v1", "\x0f\x01\xc1", true, true, ZYDIS_MNEMONIC_VMCALL},
        {"x86-64-v1", "\x0f\x01\xd9", true, true, ZYDIS_MNEMONIC_VMMCALL},
        {"x86-64-v1,-hypervisor", "\x0f\x01\xc1", true, false, ZYDIS_MNEMONIC_VMCALL},
        {"x86-64-v1", "\x0f\x01\xd8", true, false, ZYDIS_MNEMONIC_VMRUN},
        {"x86-64-v1", "\x0f\x01\xc2", true, false, ZYDIS_MNEMONIC_VMLAUNCH},
        {"x86-64-v1", "\x0f\xc7\xf0", true, false, ZYDIS_MNEMONIC_RDRAND},
        {"x86-64-v1", "\x0f\x0f\xc0\xb4", true, false, ZYDIS_MNEMONIC_PFMUL},
        {"max", "\x62\xf1\x7c\x48\x58\xc0", true, false, ZYDIS_MNEMONIC_VADDPS},
        {"max", "\xc7\xf8", true, false, ZYDIS_MNEMONIC_XBEGIN},
        {"max", "\x0f\x01\xef", true, false, ZYDIS_MNEMONIC_WRPKRU},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct error err = {0};
        struct cpu_model *model = cpu_model_create(cases[i].spec, &err);
        assert_non_null(model);
        ZydisMnemonic mnemonic;
        bool there = decodes(model, cases[i].wide, cases[i].bytes, &mnemonic);
        if (mnemonic != cases[i].mnemonic || there != cases[i].there)
            fail_msg("case %zu, %s: %s is %s", i, cases[i].spec, ZydisMnemonicGetString(mnemonic),
                     there ? "there" : "not there");
        free(model);
    }
}

static void offer_put(struct cpu_offer *offer, unsigned feature, bool on)
{
    uint32_t bit = 1u << (feature % 32);
    offer->word[feature / 32] = on ? offer->word[feature / 32] | bit : offer->word[feature / 32] & ~bit;
}

static struct cpu_model *limited(const char *spec, const struct cpu_offer *offer, struct error *err)
{
    struct cpu_model *model = cpu_model_create(spec, err);
    if (model == NULL)
        fail_msg("%s: %s", spec, err->message);
    if (cpu_model_limit(model, offer, err)) {
        struct error why;
        if (!cpu_model_fits(model, offer, &why))
            fail_msg("%s does not fit what it was cut down to: %s", spec, why.message);
        return model;
    }
    free(model);
    return NULL;
}

/* A processor that executes guests itself: what it lacks goes, or is an error if it was asked for by name; how it speculates
 * is its own affair. */
static void test_offer(void **state)
{
    struct error err = {0};
    struct cpu_offer offer = {.who = "the host", .maxphyaddr = 39, .arch_capabilities = 1};
    memset(offer.word, 0xff, sizeof offer.word);
    offer_put(&offer, CPU_PCID, false);
    offer_put(&offer, CPU_SRSO_NO, false);
    offer_put(&offer, CPU_RDTSCP, false);
    struct cpu_model *model = limited("max", &offer, &err);
    assert_non_null(model);
    assert_false(model_has(model, CPU_PCID));
    assert_false(model->cr4_mask & CR4_PCIDE);
    assert_false(model_has(model, CPU_RDTSCP));
    assert_false(model_has(model, CPU_SRSO_NO));
    assert_true(model_has(model, CPU_AMD_SSBD)); /* nobody asked for it: the guest must know the processor that runs it */
    assert_int_equal(model->arch_capabilities, 1);
    assert_in_range(model->maxphyaddr, 36, 39);
    assert_int_equal(model->tsc_khz, 1000000);
    free(model);

    assert_null(limited("x86-64-v2", &offer, &err));
    assert_non_null(strstr(err.message, "pcid"));
    assert_null(limited("max,+pcid", &offer, &err));
    assert_non_null(strstr(err.message, "-pcid"));
    model = limited("x86-64-v2,-pcid,-rdtscp", &offer, &err);
    assert_non_null(model);
    free(model);
    model = limited("pentium3", &offer, &err); /* too old to tell anything of the kind */
    assert_false(model_has(model, CPU_SPEC_CTRL));
    assert_int_equal(model->word[CPUID_7_EDX], 0);
    free(model);

    /* a guest that runs already */
    model = cpu_model_create("x86-64-v1,-rdtscp", &err);
    assert_false(cpu_model_fits(model, &offer, &err)); /* it has been told that it is not affected by MDS ... */
    assert_non_null(strstr(err.message, "not affected"));
    free(model);
    model = cpu_model_create("x86-64-v1,-rdtscp,-arch_capabilities,-spec_ctrl", &err);
    assert_false(cpu_model_fits(model, &offer, &err));
    assert_non_null(strstr(err.message, "physical address bits"));
    offer.maxphyaddr = 40;
    assert_true(cpu_model_fits(model, &offer, &err));
    offer.tsc_khz = 2445432;
    assert_false(cpu_model_fits(model, &offer, &err));
    assert_non_null(strstr(err.message, "2445432"));
    assert_true(cpu_model_limit(model, &offer, &err));
    assert_int_equal(model->tsc_khz, 2445432);
    assert_true(cpu_model_fits(model, &offer, &err));
    offer_put(&offer, CPU_SYSCALL, false);
    assert_false(cpu_model_fits(model, &offer, &err));
    assert_non_null(strstr(err.message, "syscall"));
    free(model);
}

/* The leaves that tell the TSC's frequency agree. */
static void test_tsc_leaves(void **state)
{
    struct bench *b = *state;
    assert_int_equal(query(b, 0x15, 0).eax, 1);
    assert_int_equal(query(b, 0x15, 0).ebx, 1);
    b->model.tsc_khz = 2445432;
    struct cpuid_result r = query(b, 0x15, 0);
    assert_int_equal((uint64_t)r.ecx * r.ebx / r.eax, 2445432000);
    assert_int_equal(r.ecx, 1000000000); /* what the local APIC's timer counts */
    assert_int_equal(query(b, 0x16, 0).eax, 2445);
    assert_int_equal(query(b, 0x40000010, 0).eax, 2445432);
    assert_int_equal(query(b, 0x40000010, 0).ebx, 1000000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_specs),   cmocka_unit_test(test_dependencies), SYSTEM_TEST(test_max),
        SYSTEM_TEST(test_dynamic_bits), SYSTEM_TEST(test_xsave_leaf),        SYSTEM_TEST(test_topology),
        SYSTEM_TEST(test_limits),       SYSTEM_TEST(test_instruction),       cmocka_unit_test(test_isa_sets),
        cmocka_unit_test(test_offer),   SYSTEM_TEST(test_tsc_leaves),
    };
    return cmocka_run_group_tests_name("cpuid", tests, NULL, NULL);
}
